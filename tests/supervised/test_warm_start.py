"""The held-out evaluation of a warm start."""

from types import SimpleNamespace

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmrl.arguments import WarmStartEvaluationArguments
from lmrl.supervised import make_supervised_evaluator


def test_completions_may_be_as_long_as_the_longest_of_all_references(gpt2_path: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(gpt2_path)
    tokenizer = AutoTokenizer.from_pretrained(gpt2_path)
    references = [["a", "a b c a b c"], ["a b"]]
    rows = Dataset.from_dict({"prompt": ["a", "b"], "references": references})
    lengths = [len(tokenizer(text)["input_ids"]) for texts in references for text in texts]
    assert max(lengths) == lengths[1] > lengths[2]  # that of no first reference

    config = SimpleNamespace(chat_template_kwargs=None)

    def limit(**arguments: int) -> int:
        evaluator = make_supervised_evaluator(
            model, tokenizer, rows, WarmStartEvaluationArguments(**arguments), config
        )
        return evaluator.decoding.max_new_tokens

    assert limit() == max(lengths) + 1  # with the EOS
    assert limit(eval_max_new_tokens=3) == 3
