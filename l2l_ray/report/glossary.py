"""The words of a report in plain English, for somebody who has not read the paper; one list for page and docs.

A report ends with the terms that occur in it (`occurring`); `docs/glossary.md` has them all (`docs/glossary_page.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A word and what it means.

    Args:
        name: The word.
        meaning: One or two sentences.
        forms: Regular expression of how it is written in running text, letter case aside; empty = the name.
        page: File of docs/ that says more; empty = none.

    Example: `Term("IoU", "How well two masks overlap.").occurs_in("mean IoU")` is true.
    """

    name: str
    meaning: str
    forms: str = ""
    page: str = ""

    @property
    def pattern(self) -> re.Pattern[str]:
        """Finds the term as a whole word."""
        return re.compile(rf"(?<![\w-])(?:{self.forms or re.escape(self.name)})(?![\w-])", re.IGNORECASE)

    def occurs_in(self, text: str) -> bool:
        """Whether the text uses the term."""
        return self.pattern.search(text) is not None


TERMS = (
    Term(
        "95 % interval",
        "The range in which a figure would lie in 95 of 100 cases if other photos of the same kind had been "
        "drawn. The fewer the photos, the wider it is. It says nothing of other seeds.",
        forms=r"95 % intervals?|intervals?",
        page="metrics.md",
    ),
    Term(
        "accept all",
        "A rule to compare with: every label is used as it is.",
    ),
    Term(
        "accepted cells",
        "The cells of a label that the selector believed and training learned from. The rest of the label is a "
        "guess that nobody vouched for.",
        forms=r"accepted(?: cells?)?",
    ),
    Term(
        "adaptive thresholds",
        "A rule to compare with: a cell is accepted where the teacher is at least as sure as it is on average, of "
        "cells it calls object and of the others apart.",
        forms=r"adaptive.thresholds?",
    ),
    Term(
        "agreement",
        "A rule to compare with: a label is used where the teacher draws much the same mask with and without the "
        "language model's box, and its object cells are accepted inside the box. In a reward: how far a label "
        "overlaps that box.",
        forms=r"agreement|prior and teacher agree",
    ),
    Term(
        "AUC",
        "How well a number tells right labels from others: how often, in percent, a right label has the higher one. "
        "100 is always, 50 as by chance. A number that is the same for all labels has none.",
        page="metrics.md",
    ),
    Term(
        "box",
        "A rectangle around an object, left, top, right, bottom.",
        forms=r"box(?:es)?",
    ),
    Term(
        "burn-in",
        "The first part of training, from photos with masks alone. It makes version 0.",
        forms=r"burn-in|version 0",
    ),
    Term(
        "candidate",
        "One of up to four masks that an item's label can be: three predictions (the teacher's with the language "
        "model's box, without it, and on the mirrored photo) and the box itself as a mask. A selector takes one of "
        "them, or leaves the item out.",
        forms=r"candidates?(?: labels?)?",
    ),
    Term(
        "cell",
        "The run works on a coarse grid laid over each photo, 32 by 32 squares for instance; a square is a cell. "
        "Masks are brought to the photo's own size when they are measured or exported.",
        forms=r"(?:grid )?cells?",
    ),
    Term(
        "confidence",
        "How well the mask would overlap the object if the model's own probabilities were right, from 0 to 100 % "
        "(0 to 1 in files and options). It sorts what to look at first. It is no measurement: a model that is "
        "sure of the wrong object has a high one.",
        page="export.md",
    ),
    Term(
        "confidence gate",
        "A rule to compare with: the teacher's whole label is used where the teacher is sure enough of the object's "
        "cells on average. How sure is set on the photos with masks, where it pays most.",
        forms=r"confidence.gate",
    ),
    Term(
        "cross-fitting",
        "The photos with masks are cut into parts (folds), and each part is looked at through a model that has "
        "not learned from it. So the selector learns from mistakes as they happen on new photos.",
        forms=r"cross-fit(?:ting|ted)?|folds?",
    ),
    Term(
        "entropy",
        "How undecided the selector is: high while it still tries things out.",
    ),
    Term(
        "expression",
        "Another word for text, in file formats and papers.",
        forms=r"(?:referring )?expressions?",
    ),
    Term(
        "failure",
        "On this page: a mask whose IoU with the true mask is below 50 %.",
    ),
    Term(
        "fixed threshold",
        "A rule to compare with: a cell is accepted where the teacher is surer than a fixed number.",
        forms=r"fixed.threshold",
    ),
    Term(
        "gate",
        "The selector's decision on a whole label, apart from that on its cells: the probability that the label is "
        "used. From 0.5 on it is.",
    ),
    Term(
        "guidance",
        "What the model is told of the text and the soft box while it draws a mask.",
    ),
    Term(
        "held-out photos",
        "Photos with masks that training never learned from, kept aside to measure how good masks are. They also "
        "choose the version, so a figure from few of them is a rough and slightly kind one.",
        forms=r"held[- ](?:out|back)",
        page="data.md",
    ),
    Term(
        "hidden truth",
        "In a benchmark, the true masks of unlabeled images. Training cannot see them; they are read after it "
        "has ended, for figures in the report alone.",
        page="architecture.md",
    ),
    Term(
        "hint",
        "A box or points that a person gave for a text. It is used in place of the language model's answer; it is no "
        "true mask.",
        forms=r"hints?|box given by a person",
    ),
    Term(
        "IoU",
        "Intersection over union: the area that two masks share, divided by the area that either covers. 100 % "
        "is a perfect match, 0 % no overlap at all.",
        page="metrics.md",
    ),
    Term(
        "IoU ≥ 50 %",
        "The share of texts whose mask has an IoU of at least 50 % with the true one; papers write P@0.5 or "
        "Pr@0.5. Other limits alike.",
        forms=r"IoU ≥\s\d+\s%|P@0\.\d|Pr@0\.\d",
        page="metrics.md",
    ),
    Term(
        "KL",
        "How far one update moved the selector's decisions; large jumps are held back.",
    ),
    Term(
        "L2L (RPLE)",
        "This project's selector. It learns from rewards which labels, and which parts of them, to believe.",
        forms=r"L2L|RPLE",
        page="architecture.md",
    ),
    Term(
        "label",
        "A mask that the run made for an unlabeled photo and its text; papers say pseudo-label. Nobody checked "
        "it. Training learns from the parts that the selector accepts.",
        forms=r"(?:pseudo-)?labels?",
        page="export.md",
    ),
    Term(
        "labeled",
        "A photo is labeled if somebody gave true masks for its texts. Training learns from these masks.",
        page="data.md",
    ),
    Term(
        "language model",
        "The multimodal large language model (MLLM) that was asked for each text where the object is. It is "
        "never trained here. Its answer, a box, may be wrong.",
        forms=r"language models?|MLLMs?",
    ),
    Term(
        "mask",
        "Which pixels of a photo belong to the object that a text names.",
        forms=r"masks?",
    ),
    Term(
        "mean IoU",
        "The IoU of every text's mask with the true one, averaged; papers write mIoU or gIoU. Small and large "
        "objects count alike.",
        forms=r"mean IoU|mIoU",
        page="metrics.md",
    ),
    Term(
        "object precision",
        "Of the cells that are accepted and labeled object, the share that truly is object.",
        forms=r"(?:object )?precision",
    ),
    Term(
        "object recall",
        "Of the true object's cells, the share that is accepted and labeled object.",
        forms=r"(?:object )?recall",
    ),
    Term(
        "overall IoU",
        "The shared area of all masks together, divided by all covered area together; papers write oIoU or cIoU. "
        "Large objects dominate it.",
        forms=r"overall IoU|oIoU",
        page="metrics.md",
    ),
    Term(
        "policy",
        "The small network inside a learned selector: it decides which candidate is taken, whether it is used, and "
        "which of its cells.",
        forms=r"polic(?:y|ies)",
    ),
    Term(
        "poor outline",
        "A label that covers only a part of its object, or far more than it: IoU from 10 to 50 %.",
        page="metrics.md",
    ),
    Term(
        "prior",
        "What the language model said about a photo and a text before this run's own model looks at them: a box, "
        "seldom a point or an outline.",
        forms=r"priors?",
    ),
    Term(
        "prior only",
        "The soft box itself taken as the mask, without any training: the figure to beat.",
        forms=r"prior only|zero-shot",
    ),
    Term(
        "prior's mask as label",
        "A rule to compare with: the language model's box (or the mask made from it) is the label, wherever there "
        "is one.",
        forms=r"prior['’]s mask as label|prior_label",
    ),
    Term(
        "protocol",
        "The exact rules by which figures are counted. Figures under different protocols cannot be compared.",
        forms=r"protocols?",
        page="metrics.md",
    ),
    Term(
        "random gate",
        "A rule to compare with: the teacher's whole label is used for a share of the texts drawn at random. It shows "
        "what using fewer labels is worth by itself.",
        forms=r"random.gate",
    ),
    Term(
        "ref",
        "In data files, one object of a photo together with all texts that name it, and its mask if there is one.",
        forms=r"refs?",
        page="data.md",
    ),
    Term(
        "referent",
        "The object that a text names.",
        forms=r"referents?",
    ),
    Term(
        "refused",
        "A label that the selector did not use. Of the right ones that is a loss.",
        page="metrics.md",
    ),
    Term(
        "reward",
        "What L2L's selector is trained to raise: a score of its decisions, by the true mask on photos with masks, "
        "and by what stands in for it on others.",
        forms=r"rewards?",
    ),
    Term(
        "right label",
        "A label whose IoU with the true mask is at least 50 %.",
        forms=r"right labels?|labels? (?:that (?:is|are) )?right",
        page="metrics.md",
    ),
    Term(
        "risk by coverage",
        "Labels are taken from the surest down. At each share taken (the coverage), the risk is 1 minus the mean IoU "
        "of those taken. A selector that knows which labels are right has a low curve; its area is the mean over all "
        "shares.",
        forms=r"risk by coverage|risk",
        page="metrics.md",
    ),
    Term(
        "round",
        "Label all unlabeled photos once, then train on what was accepted. A run has several; the first is round "
        "0, and round r makes version r + 1.",
        forms=r"rounds?",
    ),
    Term(
        "seed",
        "The number that all randomness of a run comes from. One seed is one draw: another may come out differently.",
        forms=r"seeds?",
    ),
    Term(
        "selector",
        "The part that decides which labels, and which cells of them, training may learn from.",
        forms=r"selectors?",
        page="add_a_selector.md",
    ),
    Term(
        "SemiRES",
        "A published method; its two rules for using labels are here to compare with.",
    ),
    Term(
        "shard",
        "So many unlabeled texts as are labeled in one go, and saved together.",
        forms=r"shards?",
    ),
    Term(
        "soft box",
        "The language model's box as a mask with soft edges (also called proposal), which guides the model.",
        forms=r"soft box(?:es)?|proposals?",
    ),
    Term(
        "split",
        "A part of a data set with one use: train to learn from, val to choose by, test, testA and testB to measure.",
        forms=r"splits?|testA|testB",
        page="data.md",
    ),
    Term(
        "stability",
        "How far a label is repeated by predictions that do not follow the same box: without it, on the mirrored "
        "photo, and by the version before.",
    ),
    Term(
        "stated confidence",
        "The mean confidence of the used labels: what the model thinks of them, to hold against their true mean IoU.",
    ),
    Term(
        "student",
        "The model in training. The teacher is its slow average.",
        forms=r"students?",
    ),
    Term(
        "supervised",
        "Training from photos with masks alone, without labels of unlabeled photos: what the labels must improve on.",
    ),
    Term(
        "supervised scorer",
        "A learned selector to compare with: L2L's own network, taught on the same photos to foretell the IoU of "
        "every candidate and which cells are right, without rewards.",
        forms=r"supervised.scorer|scorer",
    ),
    Term(
        "teacher",
        "The model that labels: a slow average of the model in training, steadier than it.",
        forms=r"teachers?",
    ),
    Term(
        "text",
        "The words that name one object of a photo, as “the cup on the left”; an expression, or sentence, in "
        "papers and files.",
        forms=r"texts?|sentences?",
    ),
    Term(
        "true mask",
        "A mask that a person made or checked; “truth” for short. Figures compare with it.",
        forms=r"true masks?|truth",
    ),
    Term(
        "unlabeled",
        "A photo with a text and without a true mask. The run makes labels for it.",
    ),
    Term(
        "used",
        "A label was used if training learned from it: the selector kept it, and accepted some part of its object.",
    ),
    Term(
        "val",
        "The photos with true masks that choose the version; training never learns from them.",
        forms=r"val|validation",
        page="data.md",
    ),
    Term(
        "version",
        "The model as it stood after the burn-in (version 0) or after a round (1, 2, ...). The best on val is "
        "chosen; without val, the last.",
        forms=r"versions?",
    ),
    Term(
        "wrong again",
        "Of the labels that were used and not right in one round, the share that is so again in the next: mistakes "
        "that training did not mend.",
        page="metrics.md",
    ),
    Term(
        "wrong object",
        "A label that hardly overlaps the true mask: IoU below 10 %.",
    ),
)


def occurring(text: str) -> list[Term]:
    """Return the terms that a text uses, by alphabet."""
    return [term for term in TERMS if term.occurs_in(text)]
