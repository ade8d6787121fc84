"""One list names all selectors; each of them is one, whoever wrote it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
import torch

from l2l_ray.confidence import estimated_iou
from l2l_ray.config import SelectorConfig
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.selector.base import Selector, make_selector
from l2l_ray.selector.candidates import candidates_of
from l2l_ray.selector.registry import (
    PRIOR_ONLY,
    SelectorSpec,
    label_of,
    makes_labels,
    register,
    selectors,
    spec_of,
    stores_labels,
    style_of,
)
from tests.selector.learning import seeded_selector, settled, train


def select(name, evidence):
    selector = make_selector(SelectorConfig(name=name))
    return selector.select(evidence, list(range(len(evidence.mask_probs))))


@pytest.mark.parametrize("name", [spec.name for spec in selectors()])
class TestContract:
    def test_is_a_selector(self, name):
        assert isinstance(make_selector(SelectorConfig(name=name)), Selector)

    def test_learns_if_the_registry_says_so(self, name):
        selector = make_selector(SelectorConfig(name=name))
        learns = spec_of(name).learns
        assert learns == bool(selector.state_dict())
        assert (learns and selector.learns_by_batch) == (type(selector).update is not Selector.update)

    def test_labels_if_the_registry_says_so(self, name, evidence_of):
        sure = evidence_of(torch.tensor([[[0.99, 0.01], [0.99, 0.01]]]))  # whatever labels, labels this
        keys = range(20)  # one of them opens any gate that draws
        accepted = make_selector(SelectorConfig(name=name)).select(take_times(sure, 20), keys).accepted
        assert makes_labels(name) == bool(accepted.any())

    def test_selection_is_consistent(self, name, bandit):
        evidence, _ = bandit(5, seed=1)
        selection = select(name, evidence)
        assert selection.target.shape == selection.pixel_weight.shape == (5, 16, 16)
        assert selection.source.dtype == torch.int8 and selection.target.dtype == torch.bool
        for values in (selection.pixel_weight, selection.gate, selection.confidence):
            assert values.dtype == torch.float32 and values.min() >= 0 and values.max() <= 1
        assert (selection.pixel_weight[selection.gate < 0.5] == 0).all() and (selection.mean_log_prob <= 0).all()
        assert torch.equal(selection.target, candidates_of(evidence).taken(selection.source))
        assert not selection.pixel_weight.requires_grad and not selection.gate.requires_grad

    def test_rows_are_independent(self, name, bandit, rows_of):
        evidence, _ = bandit(5, seed=2)
        selector = make_selector(SelectorConfig(name=name))
        whole, part = selector.select(evidence, range(5)), selector.select(rows_of(evidence, [4, 1]), [4, 1])
        assert torch.equal(whole.source[[4, 1]], part.source)
        assert torch.equal(whole.pixel_weight[[4, 1]], part.pixel_weight)
        assert torch.allclose(whole.confidence[[4, 1]], part.confidence, atol=1e-6)

    def test_confidence_is_that_of_the_label_whoever_chose_it(self, name, bandit):
        evidence, _ = bandit(5, seed=2)
        selection = select(name, evidence)
        assert torch.equal(selection.confidence, estimated_iou(selection.target, evidence.mask_probs))

    def test_keys_are_checked(self, name, bandit):
        evidence, _ = bandit(2)
        with pytest.raises(DataError, match="one key per sample"):
            make_selector(SelectorConfig(name=name)).select(evidence, [1, 2, 3])

    def test_an_unneeded_prediction_is_not_read(self, name, bandit):
        selector = make_selector(SelectorConfig(name=name))
        if selector.needs_full_evidence:
            return
        evidence, _ = bandit(4, seed=4)
        other = type(evidence)(**{
            **vars(evidence),
            **{f"mask_probs_{v}": torch.rand(4, 16, 16) for v in ("unguided", "flipped")},
        })  # fmt: skip
        first, second = selector.select(evidence, range(4)), selector.select(other, range(4))
        assert torch.equal(first.pixel_weight, second.pixel_weight) and torch.equal(first.target, second.target)

    @pytest.mark.gpu
    def test_it_works_on_a_gpu(self, name, bandit, worlds):
        selector = seeded_selector(SelectorConfig(name=name, hidden=8)).cuda()
        on_gpu = [(_cuda(evidence), truth.cuda(), _cuda(other)) for evidence, truth, other in worlds[:2]]
        if spec_of(name).learns:
            if list(selector.parameters()):
                train(selector, on_gpu, 2)
            settled(selector, on_gpu)
        selection = selector.select(on_gpu[0][0], range(8))
        assert all(getattr(selection, field.name).is_cuda for field in fields(selection))


def take_times(evidence, times):
    """Return one sample several times."""
    return type(evidence)(**{
        field.name: getattr(evidence, field.name).expand(times, *getattr(evidence, field.name).shape[1:])
        for field in fields(evidence)
    })  # fmt: skip


def _cuda(evidence):
    return type(evidence)(**{field.name: getattr(evidence, field.name).cuda() for field in fields(evidence)})


def test_names_labels_and_styles_tell_selectors_apart():
    rows = [PRIOR_ONLY, *(spec.name for spec in selectors())]
    for values in (rows, [label_of(name) for name in rows]):
        assert len(set(values)) == len(rows) and all(values)
    styles = [style for style in map(style_of, rows) if style is not None]
    assert len(set(styles)) == len(styles) > 5


def test_labels_are_stored_where_they_are_not_made_in_training():
    assert stores_labels("l2l") and makes_labels("online@0.95")
    assert not any(stores_labels(method) for method in ("online@0.95", "supervised", PRIOR_ONLY))


@pytest.mark.parametrize(
    ("method", "label"),
    [
        ("prior_only", "prior only (zero-shot)"),
        ("l2l", "L2L (RPLE)"),
        ("fixed_threshold", "fixed threshold"),
        ("fixed_threshold@0.8", "fixed threshold 0.8"),
    ],
)
def test_methods_are_named_for_readers(method, label):
    assert label_of(method) == label


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("magic", "there is no selector 'magic'; choose one of 'l2l', 'supervised', .*, or 'module:name'"),
        ("prior_only", "there is no selector 'prior_only'"),
        ("pwa@0.3", "selector 'pwa' takes no value, got 'pwa@0.3'; write 'pwa'"),
        ("fixed_threshold@", "needs its threshold after the '@', got nothing"),
        ("no_such_module:rule", "module 'no_such_module' cannot be imported: .*PYTHONPATH"),
        (".mine:rule", "module '.mine' cannot be imported: "),
        (":rule", "module '' cannot be imported: "),
        ("json:rule", r"module 'json' does not register it; call register\(SelectorSpec\('json:rule', ...\)\)"),
    ],
)
def test_a_method_that_is_none_is_refused(method, message):
    with pytest.raises(ConfigError, match=message):
        spec_of(method)


@pytest.mark.parametrize("name", ["a/b:rule", "my_rules:mean-v2", "two words", "", "a:b:c"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(ConfigError, match="letters, digits and underscores, .*write e.g. 'my_rules:mean_certainty'"):
        register(SelectorSpec(name, "mine", "rules:AcceptAll"))


@pytest.mark.parametrize(("code", "kind"), [("x y", "SyntaxError"), ("1 / 0", "ZeroDivisionError")])
def test_code_that_breaks_when_it_is_imported_is_named(code, kind, tmp_path, monkeypatch):
    (tmp_path / f"breaks_{kind}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match=f"importing module 'breaks_{kind}' ended with {kind}: .*; correct it, `python"
    ):
        spec_of(f"breaks_{kind}:rule")


OWN = """
from l2l_ray.selector.registry import SelectorSpec, register
from l2l_ray.selector.rules import FixedThreshold

register(SelectorSpec("own_rules:cut", "my cut", FixedThreshold, setting="threshold"))
"""


def test_a_selector_of_ones_own_is_imported_by_its_name(evidence_of, tmp_path, monkeypatch):
    (tmp_path / "own_rules.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert style_of("own_rules:cut") is None and spec_of("own_rules:cut@0.7").setting == "threshold"
    assert label_of("own_rules:cut@0.7") == "my cut 0.7" and makes_labels("own_rules:cut")
    evidence = evidence_of(torch.tensor([[[0.92, 0.4], [0.6, 0.02]]]))
    assert select("own_rules:cut", evidence).pixel_weight.tolist() == [[[1, 0], [0, 1]]]
    with pytest.raises(ConfigError, match="'own_rules:cut' is registered already"):
        register(spec_of("own_rules:cut"))
    with pytest.raises(ConfigError, match="'prior_only' is registered already"):
        register(SelectorSpec(PRIOR_ONLY, "mine", "rules:AcceptAll"))


def test_the_table_is_read_without_torch():
    code = "import sys, l2l_ray.selector.registry; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
