"""The benchmark of decoding runs on a CPU, with the buffers of a graph in place of one."""

from launching import run_benchmark


def test_it_times_ways_to_decode_that_draw_the_same_tokens() -> None:
    sizes = ("--rows", "2", "--prompt-length", "4", "--new-tokens", "5", "--repeats", "1")
    lines = run_benchmark(
        "decoding.py", "--cpu", "--only", "tiny", "--ways", "generate,loop,buffers", *sizes
    ).splitlines()
    assert lines[0] == "Decoding on CPU, bfloat16: 2 rows of 4 + 5 tokens; medians of 1."
    assert lines[2].split()[0] == "tiny"
    assert [line.rsplit(maxsplit=1)[-1] for line in lines[3:5]] == ["1.000", "1.000"]
    assert lines[5].startswith("lmrl, buffers of a graph without one")
