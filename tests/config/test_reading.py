"""Words and files: who wins, what is refused and how it says so, and that a saved config starts the same run."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import pytest
import yaml

from l2l_ray.config import PRESETS, RunConfig, load_config, read_config, save_config, smoke_config
from l2l_ray.config.reading import own_words
from l2l_ray.errors import ConfigError


def _file(folder: Path, content: str) -> str:
    path = folder / "run.yaml"
    path.write_text(content)
    return str(path)


def test_no_words_give_the_embedded_preset() -> None:
    assert load_config() == RunConfig() == PRESETS["embedded"]()


def test_later_wins_preset_then_file_then_words(tmp_path: Path) -> None:
    file = _file(tmp_path, "loop: {rounds: 5, round_steps: 7}\nselector: {reward: {unlabeled: 0.4}}\n")
    config = load_config(["--loop.rounds", "9", "--preset", "smoke", "--config", file])
    assert config.loop.rounds == 9
    assert config.loop.round_steps == 7
    assert config.selector.reward.unlabeled == 0.4
    untouched = smoke_config()
    assert config.loop.burn_in_steps == untouched.loop.burn_in_steps
    assert config.selector.group_size == untouched.selector.group_size
    assert config.selector.reward.gate_margin == untouched.selector.reward.gate_margin


@pytest.mark.parametrize("preset", ["embedded", "smoke", "1pct"])
def test_a_benchmark_share_that_was_set_holds_for_any_data(tmp_path: Path, preset: str) -> None:
    words = ["--preset", preset, "--data.root", "/refer", "--data.dataset", "refcocoplus", "--data.split_by", "unc"]
    usual = load_config(words).data
    assert (usual.labeled_frac, usual.benchmark_frac) == (None, PRESETS[preset]().data.benchmark_frac)
    for more in (
        ["--data.benchmark_frac", "0.1"],
        ["--data", '{"benchmark_frac": 0.1}'],
        ["--config", _file(tmp_path, "data: {benchmark_frac: 0.1}\n")],
    ):
        assert load_config([*words, *more]).data == usual.model_copy(update={"labeled_frac": 0.1})
    saved = load_config(words)
    save_config(saved, tmp_path / "config.yaml")
    assert load_config(["--config", str(tmp_path / "config.yaml")]) == saved, "a saved config names every field"
    assert load_config(["--preset", preset, "--data.benchmark_frac", "0.1"]).data.labeled_frac is None, "of RefShapes"


def test_options_may_be_joined_with_an_equals_sign(tmp_path: Path) -> None:
    file = _file(tmp_path, "name: joined\n")
    config = load_config(["--preset=smoke", f"--config={file}", "--selector.reward.unlabeled=0.2", "--resume"])
    assert (config.name, config.selector.reward.unlabeled, config.resume) == ("joined", 0.2, True)
    assert config.loop == smoke_config().loop


@pytest.mark.parametrize("words", ["--selector.gate false", "--selector.gate=False", "--no-selector.gate"])
def test_switches_may_be_set_by_word(words: str) -> None:
    assert not load_config([*words.split(), "--resume"]).selector.gate
    assert load_config(["--selector.gate", "true", "--resume=false"]).selector.gate


def test_a_negative_number_may_be_written_with_a_power_of_ten() -> None:
    assert load_config(["--selector.reward.gate_margin", "-1e-2"]).selector.reward.gate_margin == -0.01


def test_lists_and_resource_maps_on_the_command_line() -> None:
    config = load_config(["--compare", "pwa", "--compare", "supervised", "--cluster.prior_resources", '{"GPU": 2}'])
    assert config.compare == ("pwa", "supervised")
    assert config.cluster.prior_resources == {"GPU": 2.0}  # replaced whole: no prior_gpu is left over


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--loop.sed", "3"],
            r"^command line: unrecognized arguments: --loop\.sed 3; did you mean loop\.seed\? `--help-all`",
        ),
        (["--presset", "smoke"], r"unrecognized arguments: --presset smoke; did you mean preset\?"),
        (["nonsense"], "unrecognized arguments: nonsense"),
        (["--loop.rounds", "0"], r"loop\.rounds: .*greater than or equal to 1, got '0' \(Rounds of labelling"),
        (["--loop.rounds", "many"], r"loop\.rounds: .*integer.*got 'many'"),
        (["--data.labeled_frac", "1.5"], r"data\.labeled_frac: .*less than or equal to 1, got '1\.5'"),
        (["--selector.name", "magic"], r"selector\.name: .*there is no selector 'magic'; choose one of 'l2l', "),
        (["--selector.name", "fixed_threshold@0.8"], r"'fixed_threshold' alone; set its value by selector\.threshold"),
        (["--compare", "pwa@0.3"], "method 'pwa@0.3' of `compare`: selector 'pwa' takes no value"),
        (["--compare", "magic"], "method 'magic' of `compare`: there is no selector 'magic'.*'fixed_threshold'"),
        (["--compare", "fixed_threshold@2"], "method 'fixed_threshold@2' of `compare`: threshold: .*less than 1"),
        (["--compare", "l2l"], r"each selector once, got \['l2l', 'l2l'\]"),
        (
            ["--preset", "huge"],
            "must be one of embedded, smoke, 5pct, 1pct, photos-small, photos-full, small, lavt_like, dinov2, dinov3, "
            "got 'huge'$",
        ),
        (["--preset", "photo-small"], r"got 'photo-small'; did you mean photos-small\?"),
        (
            ["--loop.autocast", "maybe"],
            r"^loop\.autocast must be true or false, got 'maybe'; or write --loop",
        ),
        (["--resume=yes"], "^resume must be true or false, got 'yes'"),
        (["--config"], "--config needs a value, got nothing"),
        (["--config", "~nosuch/x.yaml"], "^~nosuch/x.yaml begins with the home folder of nobody here; give the path"),
        (["--loop", '{"seed": 1, "seed": 2}'], "^command line: 'seed' stands twice in .*; write it once$"),
        (["--loop", "[1"], 'error parsing value for field "loop" [^?]*$'),
        (
            ["--config", "nowhere.yaml"],
            r"^config file nowhere\.yaml cannot be read: No such file or directory; check the path$",
        ),
        (["--config", "/"], "^config file / cannot be read: Is a directory; check the path$"),
        (
            ["--cluster.prior_resources", '{"GPU": -1}'],
            r"cluster\.prior_resources\.GPU: .*got -1 \(Ray resources of one",
        ),
    ],
)
def test_mistakes_on_the_command_line_name_the_field(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("loop: {sed: 3}", r"unknown field loop\.sed; did you mean loop\.seed\?"),
        ("looop: {seed: 3}", "unknown field looop"),
        ("loop: {rounds: [1]}", r"loop\.rounds: .*integer"),
        ("- 1", "must hold a mapping of sections, got list"),
        ("loop:\n  rounds: 1\n seed: 2\n", r"run\.yaml cannot be read: line 3, column 2: [^\n]*; correct its YAML$"),
        (
            "loop: {seed: 1}\ndata: {}\nloop: {lr: 1}\n",
            r"line 3, column 1: 'loop' stands in line 1 already; write what",
        ),
        ("loop: {seed: 1, seed: 2}", r"line 1, column 17: 'seed' stands in line 1 already"),
        ("loop:\n  # seed: 3\n", "^loop: nothing stands below it; leave loop out too, for its defaults$"),
        ("loop: {lr: .inf}", "loop.lr: .*finite number"),
        ("cluster: {prior_resources: {GPU: .inf}}", "cluster.prior_resources.GPU: .*finite number"),
        ("cluster: {worker_resources: {gpu: 1}}", "cluster.worker_resources: .*'gpu', which is no .*; write 'GPU'"),
        ("cluster: {labeler_resources: {num_cpus: 1}}", "cluster.labeler_resources: .*'num_cpus'.*; write 'CPU'"),
        ("loop: \x00", r"run\.yaml cannot be read: [^\n]*; give a YAML file"),
    ],
)
def test_mistakes_in_a_file_name_the_field(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(["--config", _file(tmp_path, content)])


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_saved_config_is_read_back_equal(tmp_path: Path, preset: str) -> None:
    config = load_config(["--preset", preset, "--loop.lr", "1e-05", "--selector.name", "pwa"])
    save_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
    assert load_config(["--config", str(tmp_path / "config.yaml")]) == config


def test_a_saved_config_of_another_version_names_the_file_and_field(tmp_path: Path) -> None:
    content = {**RunConfig().model_dump(mode="json"), "horizon": 3}
    path = _file(tmp_path, yaml.safe_dump(content))
    with pytest.raises(
        ConfigError, match=r"run\.yaml is no config of this version .*env\.json.*: unknown field horizon"
    ):
        read_config(Path(path))


def test_a_saved_config_whose_selector_is_not_found_here_is_not_called_of_another_version(tmp_path: Path) -> None:
    content = RunConfig().model_dump(mode="json")
    path = _file(tmp_path, yaml.safe_dump({**content, "selector": {**content["selector"], "name": "my_rules:mine"}}))
    with pytest.raises(ConfigError, match=r"run\.yaml: selector 'my_rules:mine': .*; put its folder on PYTHONPATH"):
        read_config(Path(path))


def test_what_was_set_and_has_no_effect_is_said_once_and_the_rest_is_not(caplog: pytest.LogCaptureFixture) -> None:
    load_config(["--prior.temperature", "0.5", "--loop.rounds", "2", "--cluster.num_workers", "2"], "job")
    (record,) = caplog.records
    assert record.getMessage() == "note: prior.temperature has no effect: prior.num_samples is 1, so no answer is drawn"


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_by_itself_says_nothing(preset: str, caplog: pytest.LogCaptureFixture) -> None:
    for command in ("run", "job", "sweep", None):
        load_config(["--preset", preset], command)
    assert not caplog.records


def test_models_of_drawn_shapes_on_own_pictures_are_named_once_with_the_way_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = ["--data.root", "data", "--data.dataset", "mine", "--data.split_by", "own"]
    for command in ("run", "job", "sweep"):
        caplog.clear()
        load_config(own, command)
        (record,) = caplog.records
        assert "prior.model, segmenter.backbone, segmenter.text are 'embedded'" in record.getMessage()
        assert "--preset photos-small (one GPU with " in record.getMessage()
    caplog.clear()
    load_config([*own, "--preset", "photos-small"], "run")
    load_config(own)  # `l2l config` starts nothing
    assert not caplog.records
    load_config([*own, "--preset", "photos-small", "--prior.model", "embedded", "--prior.proposal", "box"], "run")
    assert caplog.records[-1].getMessage().startswith("note: prior.model is 'embedded': ")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("photos --run R --cluster.num_labelers 8", "--cluster.num_labelers 8"),
        ("--cluster.num_labelers 8 --run R photos", "--cluster.num_labelers 8"),
        ("--preset photos-small --run=R photos", "--preset photos-small"),
        ("--resume photos --run R", "--resume"),
        (
            "--loop.autocast false --no-segmenter.guidance photos --run R",
            "--loop.autocast false --no-segmenter.guidance",
        ),
        ("--data.root=data photos --name mine --run R", "--data.root=data"),
        ("--help-all --run R photos", "--help-all"),
    ],
)
def test_a_word_of_a_command_is_never_the_value_of_a_field_nor_a_value_the_word(words: str, fields: str) -> None:
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument("source")
    parser.add_argument("text", nargs="?")
    parser.add_argument("--run", required=True)
    parser.add_argument("--name")
    given, rest = own_words(parser, words.split(), ("--name",))
    assert (given.source, given.text, given.run) == ("photos", None, "R")
    assert rest == fields.split()
    given, rest = own_words(parser, [*words.split(), "the left cup"], ("--name",))
    assert (given.text, rest) == ("the left cup", fields.split())
    spaced = ["photos", "--run", "R", "--cluster.labeler_resources", "{CPU: 1}", "--data.root=my data"]
    assert own_words(parser, spaced)[1] == spaced[3:]


def test_an_option_with_several_values_takes_no_word_that_a_field_parts_from_it() -> None:
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument("space")
    parser.add_argument("--seeds", type=int, nargs="+")
    given, rest = own_words(parser, ["--seeds", "0", "1", "--resume", "label_ratio", "--loop", '{"rounds": 2}'])
    assert (given.space, given.seeds, rest) == ("label_ratio", [0, 1], ["--resume", "--loop", '{"rounds": 2}'])
    assert load_config(rest).loop.rounds == 2


def test_a_word_that_is_neither_of_a_command_nor_a_field_is_refused_with_what_is_meant() -> None:
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument("source")
    with pytest.raises(ConfigError, match="unrecognized arguments: --data.rot.*; did you mean data.root"):
        own_words(parser, ["--data.rot", "data", "photos"])
