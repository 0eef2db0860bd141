"""Modules of the `evaluate` library as rewards, on tiny ones in a folder."""

import math
import pickle

import pytest

from lmrl.rewards import EvaluateMetric, make_reward

MODULE = """
import datasets
import evaluate


class {name}(evaluate.Metric):
    def _info(self):
        features = datasets.Features({features})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, {arguments}):
        {body}
"""
TEXT = 'datasets.Value("string")'
TEXTS = f"datasets.Sequence({TEXT})"


@pytest.fixture(scope="session")
def modules(tmp_path_factory):
    """Makes a module from the lines that are its own, and returns its folder."""
    import evaluate

    root = tmp_path_factory.mktemp("evaluate")

    def make(name, body, references=TEXTS, arguments="references"):
        features = f'{{"predictions": {TEXT}' + (f', "references": {references}}}' if references else "}")
        folder = root / name
        folder.mkdir(exist_ok=True)
        code = MODULE.format(name=name.title(), features=features, arguments=arguments, body=body)
        (folder / f"{name}.py").write_text(code)
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", root / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", root / "metrics")
        yield make


@pytest.fixture
def letters(modules):
    """The mean number of different letters shared with the references, and what is no number."""
    body = """shared = [len(set(p) & set("".join(r))) for p, r in zip(predictions, references)]
        return {"shared": sum(shared) / len(shared) + bonus, "note": "x", "flag": True, "rows": [1, 2, 3]}"""
    return modules("letters", body, arguments="references, bonus=0.0")


def test_each_row_is_computed_by_itself(letters):
    reward = EvaluateMetric(letters)
    completions, references = ["abc", "", ".", "é猫", "abc"], [["ab", "c"], ["a"], ["?"], ["猫"], ["x", "a"]]
    assert reward(completions=completions, references=references) == [3.0, 0.0, 0.0, 1.0, 1.0]
    assert reward(completions=completions[::-1], references=references[::-1]) == [1.0, 1.0, 0.0, 0.0, 3.0]
    assert reward(completions=[], references=[]) == []


def test_a_corpus_has_the_value_that_the_module_gives_it_and_no_mean_of_rows(modules):
    body = """hits = sum(len(set(p) & set("".join(r))) for p, r in zip(predictions, references))
        return {"rate": hits / sum(map(len, predictions))}"""
    reward = EvaluateMetric(modules("rate", body))
    columns = {"references": [["ab"], ["x"]]}
    assert reward(completions=["ab", "xyzw"], **columns) == [1.0, 0.25]
    assert reward.corpus_value(["ab", "xyzw"], columns) == 0.5  # 3 of 6 letters
    rows = EvaluateMetric(modules("rows", 'return {"long": [len(p) for p in predictions]}'), per_row=False)
    assert rows.corpus_value(["ab", "xyzw"], columns) == 3.0


def test_the_only_number_is_taken_and_more_need_a_key(letters, modules):
    both = modules("both", 'return {"low": 1, "high": 2.5}')
    assert EvaluateMetric(letters)(completions=["a"], references=[["a"]]) == [1.0]
    assert EvaluateMetric(both, key="high")(completions=["a"], references=[["a"]]) == [2.5]
    for key in (None, "hihg"):
        with pytest.raises(ValueError, match=rf"reward 'both' needs `key`.*got {key!r}.*\['high', 'low'\]"):
            EvaluateMetric(both, key=key)(completions=["a"], references=[["a"]])
    with pytest.raises(ValueError, match=r"\['shared'\], not \['flag', 'note', 'rows'\]"):
        EvaluateMetric(letters, key="note")(completions=["a"], references=[["a"]])


def test_further_arguments_reach_the_module(letters):
    assert EvaluateMetric(letters, kwargs={"bonus": 2})(completions=["a"], references=[["a"]]) == [3.0]


def test_an_error_rate_is_negated(letters):
    assert EvaluateMetric(letters, higher_is_better=False)(completions=["ab"], references=[["ab"]]) == [-2.0]


def test_nan_is_not_applicable(modules):
    folder = modules("nan", 'return {"nan": float("nan") if predictions[0] == "" else 1}')
    assert EvaluateMetric(folder)(completions=["", "a"], references=[["a"]] * 2) == [None, 1.0]


def test_a_module_with_a_result_for_every_row_gets_the_batch(modules):
    folder = modules("lists", 'return {"sizes": [len(p) + len(predictions) for p in predictions], "mean": 0.0}')
    rows = {"completions": ["", "a", "abc"], "references": [["a"]] * 3}
    assert EvaluateMetric(folder, key="sizes", per_row=False)(**rows) == [3.0, 4.0, 6.0]
    assert EvaluateMetric(folder, per_row=False)(**rows) == [3.0, 4.0, 6.0]
    assert EvaluateMetric(folder, key="sizes")(**rows) == [1.0, 2.0, 4.0]
    with pytest.raises(ValueError, match="a list of a number per row"):
        EvaluateMetric(folder, key="mean", per_row=False)(**rows)
    assert EvaluateMetric(folder, per_row=False)(completions=[], references=[]) == []


def test_numbers_of_numpy_are_numbers(modules):
    body = 'import numpy; return {"a": numpy.float32(0.5), "b": numpy.array([0.25]), "c": numpy.array([1, 2])}'
    folder = modules("arrays", body)
    for key, value in (("a", 0.5), ("b", 0.25)):
        assert EvaluateMetric(folder, key=key)(completions=["x"], references=[["x"]]) == [value]


def test_a_module_without_lists_gets_a_single_reference_as_a_string(modules):
    folder = modules("single", 'return {"equal": sum(map(str.__eq__, predictions, references))}', references=TEXT)
    reward = EvaluateMetric(folder)
    assert reward(completions=["a", "a", "a"], references=[["a"], "a", "b"]) == [1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match=r"'single' failed on row 1 of the batch with ValueError"):
        reward(completions=["a", "a"], references=["a", ["a", "b"]])


def test_a_module_may_have_no_references(modules):
    body = 'return {"words": sum(len(p.split()) for p in predictions)}'
    folder = modules("words", body, references=None, arguments="references=None")
    reward = EvaluateMetric(folder, column=None)
    assert reward.columns == ()
    assert reward(completions=["a b", ""]) == [2.0, 0.0]
    with pytest.raises(
        ValueError, match=r"module 'words' must be \['predictions', 'references'\], got \['predictions'\].*column"
    ):
        EvaluateMetric(folder)


def test_a_module_with_references_is_refused_without_a_column(letters):
    with pytest.raises(
        ValueError, match=r"module 'letters' must be \['predictions'\], got \['predictions', 'references'\].*column"
    ):
        EvaluateMetric(letters, column=None)


def test_a_failure_names_the_reward_and_the_row_and_leaves_nothing_behind(modules):
    folder = modules("divide", 'return {"inverse": 1 / len(predictions[0])}')
    reward = EvaluateMetric(folder, name="own")
    with pytest.raises(ValueError, match="reward 'own' failed on row 1 of the batch with ZeroDivisionError"):
        reward(completions=["a", ""], references=[["a"]] * 2)
    assert reward(completions=["ab"], references=[["a"]]) == [0.5]


def test_it_pickles_and_loads_the_module_again(letters):
    import evaluate

    for module in (letters, evaluate.load(str(letters))):
        reward = EvaluateMetric(module)
        copy = pickle.loads(pickle.dumps(reward))
        assert copy.signature == reward.signature
        assert copy(completions=["ab"], references=[["ab"]]) == [2.0]


def test_a_configuration_makes_the_reward(letters):
    reward = make_reward({"evaluate": {"module": str(letters), "key": "shared", "kwargs": {"bonus": 1}}})
    assert (reward.__name__, reward.columns, reward.range) == ("letters", ("references",), (-math.inf, math.inf))
    assert reward.signature.startswith("evaluate|module:letters@")
    assert "|key:shared|kwargs:{'bonus': 1}|" in reward.signature
    assert reward(completions=["a"], references=[["a"]]) == [2.0]


def test_no_such_module_is_refused():
    with pytest.raises(ValueError, match="No `evaluate` module 'no_such_module'"):
        EvaluateMetric("no_such_module")
