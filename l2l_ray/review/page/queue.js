// The list of labels: a page of those that the filters let through, the most doubtful first.

import { get } from "./api.js";

const byId = (id) => document.getElementById(id);
const PAGE = 50;
const TYPING_MS = 250;

export class Queue {
  // `open` opens a label, `say` takes words, `inTurn` does one thing after another and says what went wrong, `progress`
  // takes how many labels are in each state.
  constructor({ open, say, inTurn, progress }) {
    this.open = open;
    this.progress = progress;
    this.inTurn = inTurn;
    this.say = say;
    this.rows = [];
    this.at = -1; // place in `rows` of the open label, or of the one before it on a row; -1 = none
    this.isAside = false; // the open label is on no row
    for (const id of ["state", "order", "kind", "lowest", "highest"]) {
      byId(id).addEventListener("change", () => inTurn(() => this.filtered()));
    }
    byId("text").addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => inTurn(() => this.filtered()), TYPING_MS);
    });
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("earlier").addEventListener("click", () => inTurn(() => this.turn(false)));
    byId("later").addEventListener("click", () => inTurn(() => this.turn(true)));
  }

  states(names) {
    for (const name of names.slice(1)) byId("state").append(new Option(name, name));
  }

  kinds(found) {
    for (const [kind, num] of found) byId("kind").append(new Option(`${kind} (${num})`, kind));
  }

  get order() {
    return byId("order").value;
  }

  // Load the list anew; returns its first row.
  async load() {
    return this.take(await this.fetch(0, false));
  }

  // Return the page that begins at a rank, or that ends before it.
  fetch(start, backwards) {
    const share = (id, otherwise) => {
      const text = byId(id).value;
      return text === "" ? otherwise : Math.min(100, Math.max(0, Number(text))) / 100;
    };
    return get("api/labels", {
      order: this.order,
      start,
      count: PAGE,
      backwards,
      state: byId("state").value,
      lowest: share("lowest", 0),
      highest: share("highest", 1),
      text: byId("text").value.trim(),
      kind: byId("kind").value,
    });
  }

  take({ rows, first, num, counts }) {
    this.progress(counts);
    Object.assign(this, { rows, first, num, at: -1, isAside: false });
    this.show();
    return rows[0] || null;
  }

  async filtered() {
    const first = await this.load();
    if (first) await this.open(first.sent_id);
    else this.say("No label is left with these filters.");
  }

  async turn(isLater) {
    const row = isLater ? await this.later() : await this.earlier();
    if (row) await this.open(row.sent_id);
    else this.say(isLater ? "There is nothing later." : "There is nothing earlier.");
  }

  async later() {
    const last = this.rows[this.rows.length - 1];
    return last && (await this.over(last.rank + 1, false));
  }

  async earlier() {
    const found = this.rows[0] && (await this.over(this.rows[0].rank, true));
    return found && this.rows[this.rows.length - 1];
  }

  // Load another page, unless it is empty; returns its first row.
  async over(start, backwards) {
    const page = await this.fetch(start, backwards);
    return page.rows.length ? this.take(page) : null;
  }

  // The row before or behind the open one, from the next page if need be; from a label on no row, the one before it.
  async step(way) {
    const beside = this.beside(way);
    if (beside) return beside;
    if (!this.rows.length) return null;
    return way > 0 ? this.later() : this.earlier();
  }

  beside(way) {
    return this.rows[this.at < 0 ? (way > 0 ? 0 : -1) : this.isAside ? this.at : this.at + way] || null;
  }

  mark(item) {
    const at = this.rows.findIndex((row) => row.sent_id === item.sent_id);
    this.isAside = at < 0;
    if (at >= 0) this.at = at;
    this.change(item.sent_id, item);
    [...byId("rows").querySelectorAll("button")].forEach((button, i) => {
      if (i === this.at && at >= 0) {
        button.setAttribute("aria-current", "true");
        button.scrollIntoView({ block: "nearest" });
      } else {
        button.removeAttribute("aria-current");
      }
    });
  }

  change(sentId, { state, reviewer }) {
    const row = this.rows.find((one) => one.sent_id === sentId);
    if (!row) return;
    Object.assign(row, { state, reviewer });
    const line = byId("rows").querySelectorAll("button")[this.rows.indexOf(row)].querySelector(".state");
    line.textContent = words(row);
    line.className = `state ${row.state}`;
  }

  show() {
    const last = this.first + this.rows.length;
    byId("found").textContent = this.num
      ? `${(this.first + 1).toLocaleString("en")}–${last.toLocaleString("en")} of ${this.num.toLocaleString("en")}, most doubtful first`
      : "No label with these filters";
    byId("earlier").disabled = this.first === 0;
    byId("later").disabled = last >= this.num;
    const lines = [];
    let photo = null;
    for (const row of this.rows) {
      if (this.order === "image" && row.image !== photo) {
        photo = row.image;
        const head = document.createElement("li");
        head.className = "photo";
        head.textContent = photo;
        lines.push(head);
      }
      lines.push(this.line(row));
    }
    byId("rows").replaceChildren(...lines);
  }

  line(row) {
    const line = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.title = row.expression;
    for (const [name, text] of [["words", row.expression], ["sure", `${(100 * row.confidence).toFixed(0)} %`]]) {
      const part = document.createElement("span");
      part.className = name;
      part.textContent = text;
      button.append(part);
    }
    const state = document.createElement("span");
    state.className = `state ${row.state}`;
    state.textContent = words(row);
    button.append(state);
    button.addEventListener("click", () => this.inTurn(() => this.open(row.sent_id)));
    line.append(button);
    return line;
  }
}

const words = (row) => (row.reviewer ? `${row.state} by ${row.reviewer}` : row.state === "open" ? "" : row.state);
