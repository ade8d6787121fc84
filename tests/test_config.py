"""Config: who wins, what is refused and how it says so, and that a saved config starts the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from l2l_ray.config import (
    PRESETS,
    DataConfig,
    RunConfig,
    Section,
    load_config,
    read_config,
    save_config,
    selector_for,
    smoke_config,
)
from l2l_ray.errors import ConfigError


def _file(folder: Path, content: str) -> str:
    path = folder / "run.yaml"
    path.write_text(content)
    return str(path)


def test_no_words_give_the_embedded_preset() -> None:
    assert load_config() == RunConfig() == PRESETS["embedded"]()


def test_later_wins_preset_then_file_then_words(tmp_path: Path) -> None:
    file = _file(tmp_path, "loop: {rounds: 5, round_steps: 7}\nselector: {reward: {coverage: 0.4}}\n")
    config = load_config(["--loop.rounds", "9", "--preset", "smoke", "--config", file])
    assert config.loop.rounds == 9
    assert config.loop.round_steps == 7
    assert config.selector.reward.coverage == 0.4
    untouched = smoke_config()
    assert config.loop.burn_in_steps == untouched.loop.burn_in_steps
    assert config.selector.group_size == untouched.selector.group_size
    assert config.selector.reward.correctness == untouched.selector.reward.correctness


def test_options_may_be_joined_with_an_equals_sign(tmp_path: Path) -> None:
    file = _file(tmp_path, "name: joined\n")
    config = load_config(["--preset=smoke", f"--config={file}", "--selector.reward.coverage=0.2", "--resume"])
    assert (config.name, config.selector.reward.coverage, config.resume) == ("joined", 0.2, True)
    assert config.loop == smoke_config().loop


@pytest.mark.parametrize("words", ["--selector.gate false", "--selector.gate=False", "--no-selector.gate"])
def test_switches_may_be_set_by_word(words: str) -> None:
    assert not load_config([*words.split(), "--resume"]).selector.gate
    assert load_config(["--selector.gate", "true", "--resume=false"]).selector.gate


def test_lists_and_resource_maps_on_the_command_line() -> None:
    config = load_config(["--compare", "pwa", "--compare", "supervised", "--cluster.prior_resources", '{"GPU": 2}'])
    assert config.compare == ("pwa", "supervised")
    assert config.cluster.prior_resources == {"GPU": 2.0}  # replaced whole: no prior_gpu is left over


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loop.sed", "3"], r"unrecognized arguments: --loop\.sed 3; `--help` lists"),
        (["nonsense"], "unrecognized arguments: nonsense"),
        (["--loop.rounds", "0"], r"loop\.rounds: .*greater than or equal to 1, got '0'"),
        (["--loop.rounds", "many"], r"loop\.rounds: .*integer.*got 'many'"),
        (["--data.labeled_frac", "1.5"], r"data\.labeled_frac: .*less than or equal to 1, got '1\.5'"),
        (["--selector.name", "magic"], r"selector\.name: .*there is no selector 'magic'; choose one of 'l2l', "),
        (["--selector.name", "fixed_threshold@0.8"], r"'fixed_threshold' alone; set its value by selector\.threshold"),
        (["--compare", "pwa@0.3"], "method 'pwa@0.3' of `compare`: selector 'pwa' takes no value"),
        (["--compare", "magic"], "method 'magic' of `compare`: there is no selector 'magic'.*'fixed_threshold'"),
        (["--compare", "fixed_threshold@2"], "method 'fixed_threshold@2' of `compare`: threshold: .*less than 1"),
        (["--compare", "l2l"], r"each selector once, got \['l2l', 'l2l'\]"),
        (["--preset", "huge"], "--preset must be one of embedded, smoke, full, got 'huge'"),
        (["--config"], "--config needs a value, got nothing"),
        (["--config", "nowhere.yaml"], r"nowhere\.yaml cannot be read"),
    ],
)
def test_mistakes_on_the_command_line_name_the_field(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("loop: {sed: 3}", r"unknown field loop\.sed"),
        ("looop: {seed: 3}", "unknown field looop"),
        ("loop: {rounds: [1]}", r"loop\.rounds: .*integer"),
        ("- 1", "must hold a mapping of sections, got list"),
        ("loop: {rounds: 1", "cannot be read"),
    ],
)
def test_mistakes_in_a_file_name_the_field(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(["--config", _file(tmp_path, content)])


def test_unknown_fields_are_refused_in_code_too() -> None:
    with pytest.raises(ValueError, match="extra_forbidden"):
        DataConfig.model_validate({"labelled_frac": 0.1})


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_saved_config_is_read_back_equal(tmp_path: Path, preset: str) -> None:
    config = load_config(["--preset", preset, "--loop.lr", "1e-05", "--selector.name", "pwa"])
    save_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
    assert load_config(["--config", str(tmp_path / "config.yaml")]) == config


def test_a_saved_config_of_another_version_names_the_file_and_field(tmp_path: Path) -> None:
    content = {**RunConfig().model_dump(mode="json"), "horizon": 3}
    path = _file(tmp_path, yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"run\.yaml: unknown field horizon"):
        read_config(Path(path))


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


def test_the_default_name_tells_data_selector_and_seed() -> None:
    config = load_config(["--loop.seed", "4", "--selector.name", "agreement"])
    assert config.run_dir == config.root / "refshapes-agreement-s4"
    assert load_config(["--name", "mine"]).run_dir.name == "mine"


@pytest.mark.parametrize("section", [s for s in RunConfig.model_fields if s not in ("name", "run_root", "resume")])
def test_fields_say_what_they_are(section: str) -> None:
    default = getattr(RunConfig(), section)
    for name, field in getattr(type(default), "model_fields", {}).items():
        nested = isinstance(getattr(default, name), Section)
        obvious = name in {"lr", "weight_decay", "grad_clip", "seed", "rounds", "num_labelers", "eval_batch", "dtype"}
        assert field.description or nested or obvious, f"{section}.{name} has no description"
