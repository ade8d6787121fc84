"""What `--help` says: the options that people need first, in words that need no paper; `--help-all` lists all."""

from __future__ import annotations

from textwrap import fill, indent

from l2l_ray.config.presets import NEEDS, PRESETS

_WHAT = (
    "Learn to find the pixels that a text refers to, from photos with texts of which a few have masks; and make masks "
    "for the others, each with a confidence."
)
_FIRST = {
    "--preset NAME": "all settings at once; the options below change single ones:",
    "--config FILE": "settings from a YAML file, such as the config.yaml that every run keeps",
    "--data.root FOLDER": "where `l2l data import` wrote to",
    "--data.dataset NAME": "the data set in it",
    "--data.split_by NAME": "who divided it into train and val: own for your data; unc, umd or google for RefCOCO",
    "--name NAME": "name of the run; its folder is made below the next",
    "--run_root FOLDER": "where runs are kept; default: $L2L_HOME, else ~/l2l_runs",
    "--resume": "continue a run that was stopped",
    "--prior.model MODEL": "the language model that looks at a photo and says roughly where the object is: a folder, "
    "or a name on huggingface.co",
    "--segmenter.backbone MODEL": "the image model that learns to draw the mask, likewise",
    "--loop.rounds N": "how often masks are made for the photos without one, and learned from",
    "--selector.name NAME": "who decides which of those masks are believed; l2l learns it, fixed_threshold takes the "
    "sure ones, supervised takes none",
    "--compare NAME": "another selector to run beside it, for the table of results; may come several times",
}


def short_help(program: str) -> str:
    """Return the text of `--help`.

    Args:
        program: The command as it is typed, e.g. `l2l run`.
    """
    options = []
    for option, words in _FIRST.items():
        options.append(f"  {option}\n{indent(fill(words, 90), '      ')}")
        if option.startswith("--preset"):
            options.append(indent("\n".join(_presets()), "        "))
    end = "Every setting with its default and range: --help-all, or docs/config.md. What words mean: docs/glossary.md."
    usage = f"usage: {program} [--preset NAME] [--config FILE] [--FIELD VALUE ...]"
    return "\n\n".join([usage, fill(_WHAT, 100), "\n".join(options), end]) + "\n"


def _presets() -> list[str]:
    lines = []
    for name, make in PRESETS.items():
        says = (make.__doc__ or "").partition("\n")[0].removeprefix("Return ").rstrip(".")
        needs = f" ({NEEDS[name].sentence()})" if name in NEEDS else ""
        default = "; used where none is named" if name == "embedded" else ""
        lines.append(fill(f"{name}: {says}{needs}{default}", 100, subsequent_indent="    "))
    return lines
