"""Held-out rows, prompts that fit, and rows for supervised fine-tuning."""

import logging

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, BertTokenizer

from lmrl.data import demo_model_path, fit_prompts, split_held_out, to_supervised


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo_model_path(), local_files_only=True)


def texts(*prompts):
    return Dataset.from_dict({"prompt": list(prompts), "row": list(range(len(prompts)))})


def test_held_out_rows_share_no_prompt_with_the_others_and_none_is_lost():
    data = texts(*(f"prompt {number % 37}" for number in range(100)))
    train, held_out = split_held_out(data, eval_rows=20, seed=1)
    assert 18 <= len(held_out) <= 20
    assert not set(train["prompt"]) & set(held_out["prompt"])
    assert sorted([*train["row"], *held_out["row"]]) == list(range(100))
    assert list(train["row"]) == sorted(train["row"])


def test_the_seed_alone_chooses_the_held_out_rows():
    data = texts(*map(str, range(100)))
    first, again, other = (split_held_out(data, 10, seed)[1]["row"][:] for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 10


def test_chats_with_the_same_messages_stay_on_one_side():
    chats = [[{"role": "user", "content": str(number % 5)}] for number in range(10)]
    train, held_out = split_held_out(texts(*chats), eval_rows=4, seed=0)
    assert len(held_out) == 4
    assert not {chat[0]["content"] for chat in train["prompt"]} & {chat[0]["content"] for chat in held_out["prompt"]}


@pytest.mark.parametrize("eval_rows", [0, 3, 4])
def test_a_split_that_leaves_a_side_empty_is_refused(eval_rows):
    with pytest.raises(ValueError, match=rf"`eval_rows` must be from 1 to 2, as there are 3 rows, got {eval_rows}"):
        split_held_out(texts("a", "b", "c"), eval_rows, seed=0)


def test_a_split_smaller_than_every_group_is_refused():
    with pytest.raises(ValueError, match=r"`eval_rows` must be at least 2, got 1: every prompt is repeated"):
        split_held_out(texts("a", "a", "b", "b"), 1, seed=0)


@pytest.mark.parametrize(("rows", "eval_rows"), [(["a"], None), (["a"], 1), (["a", "a", "a"], 2)])
def test_rows_of_a_single_prompt_are_refused_without_a_number_that_would_help(rows, eval_rows):
    found = rf"at least 2 different prompts, got 1 in {len(rows)} rows, 'a': .* with `eval_dataset_name`\."
    with pytest.raises(ValueError, match=found):
        split_held_out(texts(*rows), eval_rows, seed=0)


def test_prompts_that_fit_are_returned_as_they_are(tokenizer):
    data = texts("a", "a b")
    assert fit_prompts(data, tokenizer, 8) is data


GEMMA = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ m['content'] }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "roles", "message"),
    [
        (
            GEMMA,
            ["system", "user"],
            r"The prompt of row 1 must be a chat that .* accepts, got \[.*'system'.*not supported",
        ),
        (GEMMA, ["user", "user"], r"The prompt of row 1 .*Roles must alternate\)\. Change the messages"),
        (None, ["user"], r"must have a tokenizer with a chat template, got none for the prompt of row 0"),
    ],
)
def test_a_chat_that_the_template_refuses_is_refused_with_its_row(template, roles, message, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    chats = texts([{"role": "user", "content": "a"}], [{"role": role, "content": "a"} for role in roles])
    with pytest.raises(ValueError, match=message):
        fit_prompts(chats, tokenizer, 8)


# In this tokenizer "!" is one token wherever it stands.
def test_long_prompts_are_refused_with_their_number_the_longest_and_the_first(tokenizer):
    data = texts("!", "!z" * 3, "!z" * 5)
    with pytest.raises(ValueError) as caught:
        fit_prompts(data, tokenizer, 4)
    message = str(caught.value)
    assert "got 4, and 2 of 3 prompts are longer" in message
    assert "the longest has 10" in message and "row 1" in message and "with 6" in message
    assert "'drop', 'cut' or 'cut_end'" in message


def test_long_prompts_are_dropped_with_a_log_line(tokenizer, caplog):
    with caplog.at_level(logging.INFO, logger="lmrl.data.prompts"):
        kept = fit_prompts(texts("!", "!z" * 3, "z"), tokenizer, 4, "drop")
    assert list(kept["row"]) == [0, 2]
    assert "1 of 3 prompts" in caplog.text and "Dropped their rows, 2 are left" in caplog.text
    with pytest.raises(ValueError, match="must leave at least one row"):
        fit_prompts(texts("!z" * 3), tokenizer, 4, "drop")


def test_long_prompts_are_cut_to_their_end_and_still_fit(tokenizer):
    data = texts("!", "ab!" * 9 + "!!!", "tea 🍵🍵🍵🍵")
    cut = fit_prompts(data, tokenizer, 4, "cut")
    assert cut["prompt"][0] == "!"
    assert cut["prompt"][1] == "!" * 4
    assert cut["prompt"][2] == "🍵"  # four bytes, four tokens: no half character is left
    assert all(len(tokenizer(prompt)["input_ids"]) <= 4 for prompt in cut["prompt"])
    assert cut.column_names == ["prompt", "row", "uncut_prompt"]
    assert list(cut["uncut_prompt"]) == list(data["prompt"])
    with pytest.raises(ValueError, match=r"must leave some text in row 0 .*, got 3\. Raise it"):
        fit_prompts(texts("🍵"), tokenizer, 3, "cut")


def test_long_prompts_may_keep_their_beginning_in_whole_words(tokenizer):
    data = texts("!", "!!! !!! !!!", "!! " * 3)
    cut = fit_prompts(data, tokenizer, 5, "cut_end")
    assert cut["prompt"][:2] == ["!", "!!!"]
    assert all(len(tokenizer(prompt)["input_ids"]) <= 5 for prompt in cut["prompt"])
    with pytest.raises(ValueError, match=r"must leave some text in row 0 .*, got 3\. Raise it"):
        fit_prompts(texts("!!!!"), tokenizer, 3, "cut_end")


@pytest.mark.parametrize("how", ["cut", "cut_end"])
def test_a_limit_below_the_tokens_of_an_empty_text_is_refused(how, tmp_path):
    """This tokenizer adds two tokens to every text, so that not even an empty one has a single token."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb")
    with pytest.raises(ValueError, match=r"must leave some text in row 0 .*, got 1\. Raise it"):
        fit_prompts(texts("a b"), BertTokenizer(vocab=str(tmp_path / "vocab.txt")), 1, how)


def test_chats_are_counted_with_their_template_and_not_cut(tokenizer):
    turns = "{% for m in messages %}!{{ m.content }}{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}!{% endif %}"
    try:
        data = texts([{"role": "user", "content": "!!"}])
        assert fit_prompts(data, tokenizer, 4) is data
        with pytest.raises(ValueError, match=r"1 of 1 prompts .* with 4"):
            fit_prompts(data, tokenizer, 3)
        with pytest.raises(ValueError, match=r"must be 'drop' for chats, got 'cut' and a chat in row 0"):
            fit_prompts(data, tokenizer, 3, "cut")
    finally:
        tokenizer.chat_template = None


def test_the_variables_of_the_chat_template_count(tokenizer):
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if think | default(true) %}!!!{% endif %}"
    data = texts([{"role": "user", "content": "!"}])
    assert fit_prompts(data, tokenizer, 1, chat_template_kwargs={"think": False}) is data
    with pytest.raises(ValueError, match="the longest has 4 tokens"):
        fit_prompts(data, tokenizer, 1)


def test_bad_settings_of_fit_prompts_are_refused(tokenizer):
    with pytest.raises(ValueError, match="`max_prompt_length` must be at least 1, got 0"):
        fit_prompts(texts("a"), tokenizer, 0)
    with pytest.raises(ValueError, match=r"`long_prompts` must be one of .*, got 'crop'\. Did you mean `drop`"):
        fit_prompts(texts("a"), tokenizer, 1, "crop")


def test_supervised_rows_are_one_per_reference():
    data = Dataset.from_dict({"prompt": ["a ->", "b ->"], "references": [["x", "y"], ["z"]], "mr": ["a", "b"]})
    assert to_supervised(data).to_list() == [
        {"prompt": "a ->", "completion": " x"},
        {"prompt": "a ->", "completion": " y"},
        {"prompt": "b ->", "completion": " z"},
    ]
    assert to_supervised(data, completion_prefix="\n")["completion"][2] == "\nz"
    ended = Dataset.from_dict({"prompt": ["a -> "], "references": [["x"]]})
    assert to_supervised(ended)["completion"][:] == ["x"]


def test_supervised_rows_of_chats_have_chat_completions():
    user = [{"role": "user", "content": "a"}]
    data = Dataset.from_dict({"prompt": [user], "references": [["x"]]})
    assert to_supervised(data).to_list() == [{"prompt": user, "completion": [{"role": "assistant", "content": "x"}]}]


def test_references_that_are_one_text_are_one_completion():
    data = Dataset.from_dict({"prompt": ["a ->"], "references": ["xyz"]})
    assert to_supervised(data).to_list() == [{"prompt": "a ->", "completion": " xyz"}]
    with pytest.raises(ValueError, match="none of them empty, got None in column 'references', row 0"):
        to_supervised(Dataset.from_dict({"prompt": ["a ->"], "references": [None]}))


def test_supervised_rows_need_references():
    with pytest.raises(ValueError, match=r"'references'.*\['prompt', 'row'\].*reference_column"):
        to_supervised(texts("a"))
