"""Wrong and strange arguments, data files, rewards and checkpoints, drawn at random; used by test_fuzz.py."""

import json
import random
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from transformers import TrainingArguments
from trl import RewardConfig, SFTConfig

from lmrl.arguments import (
    CheckpointArguments,
    ClassifierArguments,
    ComparisonArguments,
    DataArguments,
    EvaluationArguments,
    HeldOutArguments,
    LabelArguments,
    ModelArguments,
    PreferenceArguments,
    RewardArguments,
    ScoringArguments,
    WarmStartEvaluationArguments,
)
from lmrl.trainers import PPOConfig, ReinforceConfig

KINDS: dict[str, tuple[type, ...]] = {
    "sft": (ModelArguments, DataArguments, WarmStartEvaluationArguments, SFTConfig),
    "reinforce_gen": (ModelArguments, DataArguments, RewardArguments, EvaluationArguments, ReinforceConfig),
    "ppo_gen": (ModelArguments, DataArguments, RewardArguments, EvaluationArguments, PPOConfig),
    "evaluate_gen": (CheckpointArguments, HeldOutArguments, ScoringArguments, ComparisonArguments),
    "train_classifier": (ClassifierArguments, LabelArguments, TrainingArguments),
    "train_reward_model": (ModelArguments, PreferenceArguments, RewardConfig),
}

TRAINING = {
    "max_steps": "1",
    "per_device_train_batch_size": "4",
    "output_dir": "out",
    "report_to": "none",
    "disable_tqdm": "true",
    "save_strategy": "no",
}
ROWS = [{"prompt": f"{a} {b}", "references": ["c d e"]} for a in "abc" for b in "de"]
LABELLED = [{"text": f"{a} {b}", "label": "yes" if a == "a" else "no"} for a in "abc" for b in "def"] * 3
PAIRS = [{"prompt": f"{a} {b}", "chosen": "c d", "rejected": "e"} for a in "abcd" for b in "efg"]

NUMBERS = ["0", "-1", "1", "2", "3", "0.5", "1e-9", "1e30", "9" * 25, "nan", "inf", "-inf", "-0.0"]
TEXTS = [
    "",
    " ",
    "no",
    "no such",
    "./no/such",
    "é",
    "\udcff",
    "{",
    "{}",
    "[]",
    "[1, 2]",
    '{"a": 1}',
    "null",
    "-",
    "--",
]
TEXTS += [
    "a" * 300,
    "{prompt}",
    "{0}",
    "a:b",
    "a=b",
    "%s",
    "/dev/null",
    "steps",
    "epoch",
    "bleu",
    "true",
    "rows.jsonl",
]
OBJECTS = [None, True, False, 0, -1, 3, 10**30, 0.5, float("nan"), float("inf"), "", "no", "steps", [], [""], [None]]
OBJECTS += [[1, "a"], [[1]], [{}], {}, {"a": 1}, {1: 2}, {"a": {"b": [None]}}, ["a", "a"], "1e-4", "\0"]

# What would compute, fork, allocate or wait without end is no matter of refusing.
BOUNDED = {
    "max_steps": ["0", "-1", "nan", "a", "1.5", ""],
    "num_train_epochs": NUMBERS,
    "eval_num_beams": ["0", "-1", "2", "a", "1.5", "nan"],
    "eval_num_samples": ["0", "-1", "2", "a", "1.5"],
    "lora_r": ["0", "-1", "1", "2", "a", "nan"],
    "dataloader_num_workers": ["-1", "1", "a"],
    "dataset_num_proc": ["-1", "0", "1", "a"],
    "torch_compile": ["a", "0"],
    "torch_compile_backend": [],
    "torch_compile_mode": [],
    "max_position_embeddings": [],
    "resume_from_checkpoint": [*TEXTS, "True", "true"],
    "num_generations_eval": NUMBERS,
    "use_vllm": ["a", "false", "true"],
}


def members(hint: Any) -> tuple[Any, ...]:
    """Returns the types that a hint allows."""
    return get_args(hint) or (hint,)


def texts_for(name: str, hint: Any, default: Any) -> list[str]:
    """Returns what may be written for an argument on a command line: values of its kind, extremes and nonsense."""
    if name in BOUNDED:
        return BOUNDED[name]
    kinds = members(hint)
    found = [str(default)] if isinstance(default, int | float | str) else []
    if get_origin(hint) is Literal:
        found += [str(choice) for choice in kinds]
    if hasattr(hint, "__members__"):
        found += [str(member.value) for member in hint]
    if int in kinds or float in kinds:
        found += NUMBERS
    if bool in kinds:
        found += ["true", "false"]
    if not found or str in kinds or dict in kinds:
        found += TEXTS
    return found


def arguments_of(recipe: str) -> dict[str, tuple[Any, Any]]:
    """Returns the type and the default of each argument of a recipe."""
    hints = {name: hint for kind in KINDS[recipe] for name, hint in get_type_hints(kind).items()}
    return {field.name: (hints[field.name], field.default) for kind in KINDS[recipe] for field in fields(kind)}


def usual(recipe: str, model: str) -> dict[str, str]:
    """Returns the arguments of a run that works, on the files of [`write_rows`]."""
    if recipe == "evaluate_gen":
        return {
            "model_name_or_path": model,
            "dataset_name": "rows.jsonl",
            "eval_max_new_tokens": "4",
            "eval_rows": "2",
        }
    if recipe == "train_classifier":
        return {**TRAINING, "dataset_name": "labelled.jsonl"}
    common = {**TRAINING, "model_name_or_path": model}
    if recipe == "train_reward_model":
        return {**common, "dataset_name": "pairs.jsonl"}
    common |= {"dataset_name": "rows.jsonl", "eval_rows": "2"}
    rewarded = {"rewards": "edit_similarity", "max_completion_length": "4", "eval_num_completions_to_print": "1"}
    return common if recipe == "sft" else common | rewarded


def write_rows(folder: Path) -> None:
    """Writes the data that [`usual`] names."""
    for name, rows in (("rows", ROWS), ("labelled", LABELLED), ("pairs", PAIRS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def draw_arguments(recipe: str, model: str, folder: Path, draw: random.Random) -> list[str]:
    """Returns a command line with one to three strange arguments, in a YAML file or not."""
    known = arguments_of(recipe)
    names = draw.sample(list(known), draw.choice([1, 1, 1, 2, 3]))
    given = usual(recipe, model)
    if draw.random() < 0.25:
        config = {name: draw.choice(OBJECTS) for name in names if name not in BOUNDED}
        given = {name: value for name, value in given.items() if name not in config}
        (folder / "fuzz.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
        return ["--config", "fuzz.yaml", *(f"--{name}={value}" for name, value in given.items())]
    for name in names:
        if name not in BOUNDED and draw.random() < 0.05:
            given[name] = draw.choice([*TEXTS, *NUMBERS])
        elif texts := texts_for(name, *known[name]):
            given[name] = draw.choice(texts)
    return [f"--{name}={value}" for name, value in given.items()]


# -- data files -------------------------------------------------------------------------------------------------------

CELLS = [
    "a b",
    "",
    " ",
    None,
    0,
    1.5,
    float("nan"),
    True,
    [],
    ["a"],
    ["a", None],
    [["a"]],
    [1],
    {},
    {"a": 1},
    "x" * 3000,
]
CELLS += ["\ud800", "\0", "a\u2028b", "<eos>", "<pad> <pad>", "{mr}", "\n", [{"role": "user", "content": "a"}]]
CELLS += [
    [{"role": "user"}],
    [{"content": 1}],
    [{"role": 1, "content": "a"}],
    10**40,
    -(10**18),
    "1e400",
    "NaN",
    "null",
]
BYTES = [
    b"",
    b"\n",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf",
    b"PAR1",
    b"[",
    b"[]",
    b"{}",
    b"[{}]",
    b"null",
    b"1",
    b'"a"',
    b"[1, 2]",
]
BYTES += [
    b"\x00" * 50,
    b"a,b\n1\n",
    b"a,a\n1,2\n",
    b'"a\n',
    b"prompt\n",
    b"prompt,references\r\na,b\r\n" * 2,
    b"a\tb\n1\t2\n",
]
BYTES += [
    b"[" * 100_000,
    b'{"prompt": ' * 50_000,
    b'[["a"]]',
    b'["a", "b"]',
    bytes(range(256)),
    b"\xed\xa0\x80",
    b",\n,\n",
]


def random_rows(names: list[str], draw: random.Random) -> list[dict[str, Any]]:
    """Returns rows that are mostly right, with some strange cells, missing and further columns."""
    rows: list[dict[str, Any]] = []
    for number in range(draw.choice([0, 1, 2, 6, 12])):
        row: dict[str, Any] = {name: f"{'abcdef'[number % 6]} b" for name in names}
        if draw.random() < 0.3:
            row[draw.choice(names)] = draw.choice(CELLS)
        if draw.random() < 0.1:
            del row[draw.choice(names)]
        if draw.random() < 0.1:
            row[draw.choice(["", "prompt", "completion", "id", "references", "é", "advantages", "index"])] = "a"
        rows.append(row)
    if draw.random() < 0.2:  # a full column of one kind
        name, cell = draw.choice(names), draw.choice(CELLS)
        rows = [{**row, name: cell} for row in rows]
    return rows


def write_file(path: Path, names: list[str], draw: random.Random) -> None:
    """Writes a data file of a suffix's kind, or something else under that name."""
    if draw.random() < 0.3:
        path.write_bytes(draw.choice(BYTES) + draw.choice([b"", b"", b"\n", *BYTES]))
        return
    rows, suffix = random_rows(names, draw), path.suffix
    end = draw.choice(["\n", "\n", "\r\n", "\n\n"])
    if suffix == ".parquet":
        write_parquet(path, rows, draw)
        return
    if suffix in (".csv", ".tsv"):
        separator = "\t" if suffix == ".tsv" else ","
        lines = [separator.join(names), *(separator.join(str(value) for value in row.values()) for row in rows)]
    elif suffix == ".json" and draw.random() < 0.5:
        lines = [json.dumps(rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    text = draw.choice(["", "", "\ufeff"]) + end.join(lines) + end
    encoding = draw.choice(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1"])
    content = text.encode(encoding, errors="replace" if encoding == "latin-1" else "surrogatepass")
    path.write_bytes(content[: draw.choice([len(content), len(content), len(content) // 2])])


def write_parquet(path: Path, rows: list[dict[str, Any]], draw: random.Random) -> None:
    """Writes Parquet; cells that no column can hold together become text."""
    import pyarrow
    import pyarrow.parquet

    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        cells = [row.get(name) for row in rows]
        try:
            columns[name] = pyarrow.array(cells)
        except (pyarrow.ArrowException, OverflowError, UnicodeError):
            columns[name] = pyarrow.array([ascii(cell) for cell in cells])
        if {} in cells:  # Parquet has no column of empty objects
            columns[name] = pyarrow.array([ascii(cell) for cell in cells])
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    if draw.random() < 0.2:
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 255
        path.write_bytes(content)


def draw_data(recipe: str, model: str, folder: Path, draw: random.Random) -> list[str]:
    """Returns a command line of a run on a strange file, in a folder or not."""
    given = usual(recipe, model)
    names = {"train_classifier": ["text", "label"], "train_reward_model": ["prompt", "chosen", "rejected"]}
    columns = names.get(recipe, ["prompt", "references"])
    suffix = draw.choice([".jsonl", ".jsonl", ".json", ".csv", ".tsv", ".parquet"])
    place = folder / "data" if draw.random() < 0.25 else folder
    place.mkdir(exist_ok=True)
    split = draw.choice(["train", "train", "dev"])
    write_file(place / f"{split}{suffix}", columns, draw)
    if draw.random() < 0.3:
        write_file(place / f"test{draw.choice(['.jsonl', suffix])}", columns, draw)
    if draw.random() < 0.05:
        shutil.rmtree(place / f"{split}{suffix}", ignore_errors=True)
        (place / f"{split}{suffix}").unlink(missing_ok=True)
        (place / f"{split}{suffix}").symlink_to(draw.choice(["nowhere", ".", f"{split}{suffix}"]))
    given["dataset_name"] = "data" if place != folder else f"{split}{suffix}"
    if draw.random() < 0.15:
        given["eval_dataset_name"] = f"test{suffix}"
    if draw.random() < 0.2 and columns[0] == "prompt" and recipe != "train_reward_model":
        given |= draw.choice([{"prompt_template": "{prompt} {references}"}, {"chat": "true"}, {"system_prompt": "a"}])
    return command(given, recipe)


def command(given: dict[str, str], recipe: str) -> list[str]:
    """Returns a command line of what a recipe knows."""
    known = arguments_of(recipe)
    return [f"--{name}={value}" for name, value in given.items() if name in known]


# -- configuration files ----------------------------------------------------------------------------------------------

YAMLS = [
    "a: &a [x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n"
    + "".join(f"{chr(99 + n)}: &{chr(99 + n)} [" + ", ".join([f"*{chr(98 + n)}"] * 9) + "]\n" for n in range(9)),
    "seed: !!python/object/apply:os.system ['touch owned']\n",
    "seed: !!python/name:os.system\n",
    "output_dir: !!python/object/new:os._wrap_close []\n",
    "rewards: &r [*r]\n",
    "rewards:\n  - &r {cached: {reward: *r}}\n",
    "seed: 1\nseed: 2\n",
    "- a\n",
    "a",
    "",
    "\t",
    "seed: [",
    "seed: 2001-01-01\n",
    "run_name: 2001-01-01\n",
    "rewards: [!!binary aGk=]\n",
    "rewards: !!set {bleu, chrf}\n",
    "rewards: {bleu: 1}\n",
    "metrics: bleu\n",
    "--- 1\n--- 2\n",
    "seed: 0x10\n",
    "seed: 1_000\n",
    "? [a]\n: 1\n",
    "? {a: 1}\n: 1\n",
    "1: 2\n",
    "null: 2\n",
    "true: 2\n",
    "learning_rate: 1:30\n",
    "<<: {seed: 1}\n",
    "<<: 1\n",
    "config: fuzz.yaml\n",
    "seed: \x07\n",
    "[" * 3000,
    "{a: " * 3000,
]


def draw_config(recipe: str, model: str, folder: Path, draw: random.Random) -> list[str]:
    """Returns a command line with a strange configuration file."""
    text = draw.choice(YAMLS).encode(draw.choice(["utf-8", "utf-8", "utf-16"]))
    (folder / "fuzz.yaml").write_bytes(draw.choice([text, text, text, text + draw.choice(BYTES)]))
    return ["--config", draw.choice(["fuzz.yaml"] * 8 + ["no.yaml", ".", ""]), *command(usual(recipe, model), recipe)]


# -- rewards ----------------------------------------------------------------------------------------------------------

OWN = """
import functools
limit = 3
def good(completions, **_): return [float(len(text)) for text in completions]
def failing(completions, **_): raise KeyError("slot")
def asserting(completions, **_): assert False
def exiting(completions, **_): raise SystemExit(5)
def nothing(**_): return None
def few(completions, **_): return [1.0]
def texts(completions, **_): return ["a"] * len(completions)
def huge(completions, **_): return [1e300] * len(completions)
def nan(completions, **_): return [float("nan")] * len(completions)
def none(completions, **_): return [None] * len(completions)
def columns(completions, missing): return [1.0] * len(completions)
def positional(a): return [1.0]
def bare(): return [1.0]
def trainer(completions, trainer_state, **_): return [float(trainer_state.global_step)] * len(completions)
async def later(completions, **_): return [float(len(text)) for text in completions]
async def later_failing(completions, **_): raise OSError("no service")
class Made:
    def __init__(self, size): self.size = size
    def __call__(self, completions, **_): return [float(self.size)] * len(completions)
class Broken:
    def __init__(self): raise RuntimeError("no model")
partial = functools.partial(good)
"""
BROKEN = [
    "import nothing_there",
    "def good(:",
    "1/0",
    "good = 1",
    "",
    "import os; os.chdir('/')",
]
OWN_NAMES = ["good", "failing", "asserting", "nothing", "few", "texts", "huge", "nan", "none", "columns", "positional"]
OWN_NAMES += [
    "bare",
    "trainer",
    "later",
    "later_failing",
    "Made",
    "Broken",
    "partial",
    "limit",
    "",
    "os",
    "__name__",
    "a.b",
]
OPTIONS: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    0.5,
    1e30,
    float("inf"),
    "",
    "a",
    "prompt",
    "references",
    [],
    ["a"],
    {},
    "(",
]
OPTIONS += ["rows.jsonl", "sum", ["a", 1], {"a": 1}, "running", "words", [None], "./no", "[a-", "a" * 999]
PLAIN = ["bleu", "gleu", "chrf", "ter", "rouge1", "rougeLsum", "meteor", "exact_match", "token_f1", "edit_similarity"]
PLAIN += [
    "length",
    "length_penalty",
    "distinct_n",
    "format",
    "keywords",
    "slot_coverage",
    "cider",
    "nist",
    "classifier",
]
PLAIN += [
    "fluency",
    "reward_model",
    "bertscore",
    "evaluate",
    "blue",
    "",
    " bleu ",
    "BLEU",
    "no:such",
    "os:getcwd",
    ":",
]
AROUND = ["cached", "retried", "clipped", "scaled", "normalized", "threshold", "gate", "in_workers"]


def random_spec(draw: random.Random, depth: int = 0) -> Any:
    """Returns a reward as a configuration names it, nested and wrong at random."""
    kind = draw.random()
    if depth > 5 or kind < 0.35:
        return draw.choice([draw.choice(PLAIN), "edit_similarity", f"own.py:{draw.choice(OWN_NAMES)}"])
    if kind < 0.55:
        return {draw.choice(PLAIN): random_options(draw)}
    if kind < 0.8:
        return random_wrapper(draw, depth)
    if kind < 0.95:
        parts = [random_spec(draw, depth + 1) for _ in range(draw.choice([0, 1, 2, 2, 3]))]
        terms = [{"reward": part, "weight": draw.choice([0.5, 1, -1, 0, *OPTIONS])} for part in parts]
        several = [{"product": parts}, {"minimum": parts}, {"weighted": terms}, {"weighted": terms}]
        return draw.choice(
            [*several, {"weighted": {"bleu": draw.choice(OPTIONS)}}, {"weighted": draw.choice(OPTIONS)}]
        )
    return draw.choice(OPTIONS)


def random_wrapper(draw: random.Random, depth: int) -> Any:
    """Returns a reward around another."""
    name = draw.choice(AROUND)
    needed = {
        "gate": {"when": random_spec(draw, depth + 1)},
        "threshold": {"at_least": draw.choice([0.5, *OPTIONS])},
        "in_workers": {"workers": 1, "timeout": 20},
        "retried": {"wait": 0},
    }
    inner = {"reward": random_spec(draw, depth + 1), **needed.get(name, {})}
    return {name: inner if draw.random() < 0.8 else inner | random_options(draw, list(inner))}


def random_options(draw: random.Random, more: list[str] | None = None) -> dict[str, Any]:
    """Returns options, of the right names or not."""
    names = ["name", "target", "n", "column", "lowercase", "pattern", "required", "max_length", "size", "model", "by"]
    names += ["corpus", "unit", "normalize", "timeout", "low", "high", "scale", "retries", "ignore", "mode", "label"]
    names += ["no_such", "1", "", "rouge_type", "use_stemmer", "reward", "rewards", "when", "slack", "name_or_path"]
    names += more or []
    return {draw.choice(names): draw.choice(OPTIONS) for _ in range(draw.choice([0, 1, 1, 2, 3]))}


def draw_reward(recipe: str, model: str, folder: Path, draw: random.Random) -> list[str]:
    """Returns a command line with strange rewards."""
    recipe_knows = "rewards" in arguments_of(recipe)
    (folder / "own.py").write_text(OWN if draw.random() < 0.9 else draw.choice(BROKEN))
    given = usual(recipe, model)
    specs = [random_spec(draw) for _ in range(draw.choice([1, 1, 2, 3]))]
    if draw.random() < 0.2 and recipe_knows:
        given["reward_weights"] = draw.choice(["1", "nan", "1e30", "0", "-1"])
    field = draw.choice(["rewards", "eval_metrics"]) if recipe_knows else "eval_metrics"
    given.pop(field, None)
    if draw.random() < 0.7:
        (folder / "fuzz.yaml").write_text(yaml.safe_dump({field: specs}, allow_unicode=True))
        return ["--config", "fuzz.yaml", *command(given, recipe)]
    return [*command(given, recipe), f"--{field}", *(s if isinstance(s, str) else json.dumps(s) for s in specs)]


# -- checkpoints ------------------------------------------------------------------------------------------------------


def damage(place: Path, draw: random.Random) -> None:
    """Removes, cuts off or changes files of a folder."""
    files = sorted(path for path in place.rglob("*") if path.is_file())
    for path in draw.sample(files, min(len(files), draw.choice([0, 1, 1, 2]))):
        content, how = path.read_bytes(), draw.choice(["remove", "cut", "empty", "flip", "text", "edit", "edit"])
        if how == "edit" and path.suffix == ".json" and isinstance(config := json.loads(content), dict) and config:
            name = draw.choice(list(config))
            config[name] = draw.choice([*OBJECTS[:14], "gpt2", "llama", "bert", 64, 65])
            path.write_text(json.dumps(config))
        elif how == "remove":
            path.unlink()
        elif how == "flip" and content:
            at = draw.randrange(len(content))
            path.write_bytes(content[:at] + bytes([content[at] ^ draw.choice([1, 255])]) + content[at + 1 :])
        elif how in ("cut", "empty", "text"):
            path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"no such thing"}[how])


def draw_checkpoint(recipe: str, model: str, folder: Path, draw: random.Random) -> list[str]:
    """Returns a command line of a run from a damaged model, adapter or checkpoint of training."""
    given, source = usual(recipe, model), Path(model)
    kinds = [path for path in sorted(source.parent.glob(f"{source.name}-*")) if path.is_dir()]
    chosen = draw.choice([source, *kinds])
    shutil.copytree(chosen, folder / "damaged")
    damage(folder / "damaged", draw)
    fields = [name for name in ("model_name_or_path", "eval_perplexity_model") if name in arguments_of(recipe)]
    if recipe == "evaluate_gen":
        given.pop("model_name_or_path")
        return [*command(given, recipe), "--checkpoints", f"a={model}", "b=damaged"]
    if "checkpoint" in chosen.name or recipe == "train_classifier" or draw.random() < 0.1:
        return command({**given, "resume_from_checkpoint": "damaged", "max_steps": "3"}, recipe)
    return command({**given, draw.choice(fields): "damaged"}, recipe)


def make_variants(model: str) -> None:
    """Makes an adapter on a model and a checkpoint of its training, in folders beside it."""
    from peft import LoraConfig, get_peft_model
    from tiny import tiny_tokenizer
    from training import make_trainer, share_of_letters
    from transformers import AutoModelForCausalLM

    adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, task_type="CAUSAL_LM"))
    adapter.save_pretrained(f"{model}-lora")
    tiny_tokenizer().save_pretrained(f"{model}-lora")
    run = Path(f"{model}-run")
    trainer = make_trainer("ppo", model, run, share_of_letters, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    shutil.move(run / "checkpoint-1", f"{model}-checkpoint")
    shutil.rmtree(run)
