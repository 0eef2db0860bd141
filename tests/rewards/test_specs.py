"""Rewards by the names of a configuration."""

import math
import pickle
import re

import pytest

from lmrl.rewards import BLEU, METEOR, REWARDS, ChrF, Length, Rouge, make_reward, make_rewards
from lmrl.utils import check_above, check_finite

OWN = """
def shout(completions, **columns):
    return [float(text.isupper()) for text in completions]

class Starts:
    def __init__(self, letter="a"):
        self.letter = letter
    def __call__(self, completions, **columns):
        return [float(text.startswith(self.letter)) for text in completions]

ready = Starts("z")
number = 3
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return str(path)


NEED_MORE = {  # arguments or columns
    "bertscore",
    "cached",
    "cider",
    "classifier",
    "clipped",
    "evaluate",
    "fluency",
    "format",
    "gate",
    "in_workers",
    "keywords",
    "length",
    "length_penalty",
    "minimum",
    "nist",
    "normalized",
    "retried",
    "product",
    "reward_model",
    "scaled",
    "slot_coverage",
    "threshold",
    "weighted",
}


@pytest.mark.parametrize("name", sorted(set(REWARDS) - NEED_MORE))
def test_every_name_that_needs_no_arguments_makes_a_reward(name):
    reward = make_reward(name)
    assert reward.__name__ == name
    perfect = 1 - 1 / 16 if name == "meteor" else 1.0  # one chunk of two words: 1 - 0.5 * (1 / 2) ** 3
    assert reward(completions=["a b"], references=["a b"]) == pytest.approx([perfect])


@pytest.mark.parametrize(
    "spec", [{"length": {"target": 4}}, '{"length": {"target": 4}}', ' {"length": {"target": 4}}']
)
def test_arguments_come_as_a_mapping_or_its_json(spec):
    reward = make_reward(spec)
    assert isinstance(reward, Length)
    assert reward.target == 4


def test_a_list_of_specs_makes_a_list_of_rewards():
    bleu, rouge = make_rewards(["bleu", {"rougeL": {"use_stemmer": True, "name": "r"}}])
    assert isinstance(bleu, BLEU)
    assert isinstance(rouge, Rouge)
    assert (rouge.rouge_type, rouge.use_stemmer, rouge.__name__) == ("rougeL", True, "r")


def test_a_mapping_may_leave_out_the_arguments():
    assert isinstance(make_reward({"bleu": None}), BLEU)


def test_a_function_of_ones_own_file_is_a_reward(own):
    assert make_reward(f"{own}:shout")(completions=["A", "b"]) == [1.0, 0.0]


def test_files_whose_paths_differ_in_a_dot_are_two_modules(tmp_path):
    rewards = []
    for folder, value in (("v1.0", 1.0), ("v1_0", 2.0)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "own.py"
        path.write_text(f"def constant(completions, **columns):\n    return [{value}] * len(completions)\n")
        rewards.append(make_reward(f"{path}:constant"))
    assert [reward(completions=["a"]) for reward in rewards] == [[1.0], [2.0]]
    assert pickle.loads(pickle.dumps(rewards[1]))(completions=["a"]) == [2.0]


def test_a_class_of_ones_own_file_is_constructed(own):
    assert make_reward(f"{own}:Starts")(completions=["a", "b"]) == [1.0, 0.0]
    assert make_reward({f"{own}:Starts": {"letter": "b"}})(completions=["a", "b"]) == [0.0, 1.0]


def test_an_object_of_ones_own_file_is_taken_as_it_is(own):
    assert make_reward(f"{own}:ready")(completions=["z", "b"]) == [1.0, 0.0]


def test_a_reward_of_ones_own_file_pickles(own):
    reward = make_reward(f"{own}:Starts")
    assert pickle.loads(pickle.dumps(reward))(completions=["a"]) == [1.0]


def test_an_attribute_of_a_module_is_a_reward():
    assert make_reward({"lmrl.rewards.text:Length": {"target": 2}})(completions=["a"]) == [0.5]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("blue", r"must have a known name, got 'blue'\. Did you mean `bleu`\? Name .*Known are bleu, .*rougeL"),
        ("", "must have a known name, got ''. Name your own .*Known are bleu"),
        ("__import__('os')", "must have a known name"),
        ("my/own.py", "must name its function or class, got 'my/own.py'. Write my/own.py:function"),
        (
            {"bleu": {"smoothing": "exp"}},
            r"arguments of 'bleu' must be among .*'smooth_method'.*, got \['smoothing'\]",
        ),
        ({"rougeL": {"rouge_type": "rouge1"}}, "rougeL"),
        ({"bleu": {"lowercase": "false"}}, r"^`lowercase` of 'bleu' must be of type bool, got 'false'\."),
        ({"chrf": {"beta": "2"}}, r"^`beta` of 'chrf' must be of type float, got '2'\."),
        ({"length": {"target": True}}, r"^`target` of 'length' must be of type int, got True\."),
        ({"length": {"target": "20"}}, r"^`target` of 'length' must be of type int, got '20'\."),
        ({"bleu": {"column": ["a"]}}, r"^`column` of 'bleu' must be of type str, got \['a'\]\."),
        ("length", r"'length' needs \['target'\]"),
        ({"bleu": {}, "chrf": {}}, "one name"),
        ({"bleu": 3}, "mapping of names"),
        ({3: {}}, "mapping of names"),
        (3, "a name or a mapping"),
        ('{"bleu": ', "must be JSON"),
        ("nowhere.py:reward", r"^The file of a reward must exist, got .*nowhere\.py\. Correct its path"),
        ("no_such_module:reward", "must be importable, got 'no_such_module'"),
        ("./rewards:shout", r"must be of a file ending in \.py or of a module such as a\.b, got '\./rewards'"),
        (":shout", r"must be of a file ending in \.py or of a module such as a\.b, got ''"),
        ("lmrl.rewards.text:Lenght", "got 'Lenght'. Callables there: .*Length"),
    ],
)
def test_a_wrong_spec_is_refused_with_what_would_be_right(spec, message):
    with pytest.raises(ValueError, match=message):
        make_reward(spec)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Length(target="x"), "`target` must be at least 1, got 'x'."),
        (lambda: ChrF(beta="2"), "`beta` must be at least 0, got '2'."),
        (lambda: ChrF(beta=math.nan), "`beta` must be at least 0, got nan."),
        (lambda: ChrF(word_order=-1), "`word_order` must be at least 0, got -1."),
        (lambda: METEOR(alpha="x"), "`alpha` must be at least 0, got 'x'."),
        (lambda: METEOR(gamma=1.5), "`alpha` and `gamma` must be at most 1, got 0.9 and 1.5."),
        (lambda: check_above(0, rate=[1.0]), "`rate` must be above 0, got [1.0]."),
        (lambda: check_finite(rate="1e-4"), "`rate` must be finite, got '1e-4'."),
    ],
)
def test_what_is_no_number_in_range_is_named(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make()


def test_arguments_of_a_plain_function_are_refused(own):
    with pytest.raises(ValueError, match="must be a class to have arguments"):
        make_reward({f"{own}:shout": {"loud": True}})


def test_what_cannot_be_called_is_refused(own):
    with pytest.raises(ValueError, match="must be callable, got a int"):
        make_reward(f"{own}:number")


@pytest.mark.parametrize("specs", ["bleu", {"bleu": {}}])
def test_one_spec_in_place_of_a_list_is_refused(specs):
    with pytest.raises(ValueError, match="list"):
        make_rewards(specs)


def test_a_file_that_fails_to_run_is_an_error_every_time(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"broken\.py must run, got ZeroDivisionError: division by zero"):
            make_reward(f"{path}:reward")
