"""The whole config: its folders and names, its methods, and which settings contradict each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2l_ray.config import DataConfig, RunConfig, load_config, selector_for
from l2l_ray.errors import ConfigError
from tests.whole_run import changed


def test_unknown_fields_are_refused_in_code_too() -> None:
    with pytest.raises(ValueError, match="extra_forbidden"):
        DataConfig.model_validate({"labelled_frac": 0.1})


def test_a_method_of_compare_may_carry_its_threshold() -> None:
    section = RunConfig().selector
    assert selector_for(section, "fixed_threshold@0.8") == section.model_copy(
        update={"name": "fixed_threshold", "threshold": 0.8}
    )
    assert selector_for(section, "pwa") == section.model_copy(update={"name": "pwa"})


def test_sections_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().loop.seed = 3  # type: ignore[misc]


def test_run_root_is_absolute_and_follows_explicit_then_environment_then_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("L2L_HOME", str(tmp_path / "env"))
    assert RunConfig().root == tmp_path / "env"
    assert RunConfig(run_root=str(tmp_path / "given")).root == tmp_path / "given"
    assert RunConfig(run_root="relative").root == Path.cwd() / "relative"
    monkeypatch.delenv("L2L_HOME")
    assert RunConfig().root == Path.home() / "l2l_runs"


def test_a_rooted_config_means_the_same_folder_in_every_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("L2L_HOME", "here")
    monkeypatch.chdir(tmp_path)
    rooted = RunConfig(name="one").rooted()
    monkeypatch.setenv("L2L_HOME", "elsewhere")
    monkeypatch.chdir("/")
    assert rooted.run_dir == tmp_path / "here" / "one" and rooted.cache_dir == tmp_path / "here" / "cache"
    assert RunConfig.model_validate(rooted.model_dump()).run_dir == rooted.run_dir


def test_the_default_name_tells_data_selector_and_seed() -> None:
    config = load_config(["--loop.seed", "4", "--selector.name", "agreement"])
    assert config.run_dir == config.root / "refshapes-agreement-s4"
    assert load_config(["--name", "mine"]).run_dir.name == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data.dataset refcoco", r"data\.dataset is 'refcoco', but data\.root is 'embedded'.*set data\.root to"),
        ("--data.split_by unc", r"data\.split_by is 'unc', but .* 'l2l' alone; leave it out"),
        *(
            (f"--name={name}", f"name: must name a folder below another one, got {name!r}; choose a plain name$")
            for name in ("../outside", "/outside", "", ".", "a/../b")
        ),
        ("--data.root own --data.dataset ../x", r"data\.dataset: must name a folder below .*, got '\.\./x'"),
        ("--compare fixed_threshold@0.8 --compare fixed_threshold@0.80", "compare and selector.name must name each"),
        ("--prior.proposal sam", r"prior\.proposal is 'sam', but prior\.sam_model is None; set it to"),
        (
            "--augment.strong.blur_min_sigma_frac 0.05",
            r"augment\.strong\.blur_min_sigma_frac is 0\.05, more than .* 0\.01; swap them",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        load_config(words.split())


def test_a_name_is_kept_in_its_shortest_form() -> None:
    assert load_config(["--name", "./group//mine/"]).name == "group/mine"
    assert RunConfig(data=DataConfig(root="refer", dataset="coco/mine/")).data.dataset == "coco/mine"


def test_text_that_cannot_be_written_is_refused() -> None:
    for words in (["--name", "mine\udce9"], ["--data.root", "/mine\udce9"], ["--compare", "mine\udce9"]):
        with pytest.raises(ConfigError, match=r"must be text in UTF-8, got .*udce9"):
            load_config(words)


def test_settings_that_agree_are_accepted() -> None:
    config = changed(
        RunConfig(),
        data={"root": "/data/refer", "dataset": "refcoco", "split_by": "unc"},
        prior={"proposal": "sam", "sam_model": "facebook/sam2-hiera-tiny"},
    )
    assert config.prior.sam_model
    assert changed(RunConfig(), data={"dataset": "refshapes+"}).run_name == "refshapes+-l2l-s0"


def test_fields_are_changed_together_and_checked() -> None:
    sigmas = {"augment.strong.blur_min_sigma_frac": 0.02, "augment.strong.blur_max_sigma_frac": 0.03}
    config = RunConfig().with_values({"selector.reward.wrong_cost": 5.0, "name": "x", **sigmas})
    assert (config.selector.reward.wrong_cost, config.name) == (5.0, "x")
    assert config.augment.strong.blur_min_sigma_frac == 0.02
    with pytest.raises(ConfigError, match="loop.rounds"):
        RunConfig().with_values({"loop.rounds": 0})
