"""Tables, prompts files and pair folders that are damaged: a broken row is listed and costs itself alone, nothing is
guessed, cut or split.
"""

import csv
import datetime
import io
import json
import os

import pytest
from apart import run, within
from PIL import Image

from accord.data.pair_folders import read_part, stream_pairs, write_metadata, write_part
from accord.data.pairs import PairsFile, read_pairs, table_bytes
from accord.data.prompt_files import read_prompts
from accord.types import InputError

ROW = {"p": "a star", "se": 1, "c": 7.0, "st": 5, "sa": "x"}


def write(path, text: str | bytes):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows_of(path) -> tuple[list[str], list[int]]:
    """The prompts that are read, and the numbers of the rows that are listed as broken."""
    found = read_pairs(path)
    return [p.prompt for p in found.pairs], [s["row"] for s in found.skipped]


# --- CSV ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rows", "prompts", "broken"),
    [
        ('a.png,"a star\nb.png,a key\nc.png,a moon\n', ["a key", "a moon"], [1]),  # never closed
        ('a.png,"a star\nb.png,"a key"\nc.png,a moon\n', ["a key", "a moon"], [1]),  # closed by the next row's
        ('a.png,"a star" big\nb.png,a key\n', ["a key"], [1]),
        ("a.png,a star, big\nb.png,a key\n", ["a key"], [1]),  # never cut at the comma
        (f"a.png,{'x' * 200_000}\nb.png,a key\n", ["a key"], [1]),  # longer than csv's own limit
        (f"a.png,{'x' * 110_000}\nb.png,a key\n", ["a key"], [1]),
    ],
)
def test_a_malformed_csv_record_costs_itself_alone(tmp_path, rows, prompts, broken):
    assert rows_of(write(tmp_path / "p.csv", "image,prompt\n" + rows)) == (prompts, broken)


def test_bytes_that_are_no_utf8_cost_their_row(tmp_path):
    assert rows_of(write(tmp_path / "p.csv", b"image,prompt\na.png,caf\xe9\nb.png,a key\n")) == (["a key"], [1])


@pytest.mark.timeout(120)
def test_unclosed_quotes_in_every_row_do_not_take_for_ever(tmp_path):
    path = write(tmp_path / "p.csv", "image,prompt\n" + 'z","\n' * 300_000)
    with pytest.raises(InputError, match="too many quotes that are not closed"):
        read_pairs(path)


@pytest.mark.parametrize("head", ["image,prompt,prompt", "image,image,prompt", "image,Prompt,prompt"])
def test_two_columns_of_one_name_are_refused(tmp_path, head):
    with pytest.raises(InputError, match=r"two columns '(image|prompt)'"):
        read_pairs(write(tmp_path / "p.csv", f"{head}\na.png,a star,a key\n"))
    with pytest.raises(InputError, match="two columns 'prompt'"):
        read_prompts(write(tmp_path / "p.csv", "prompt,prompt\na star,a key\n"))
    assert rows_of(write(tmp_path / "p.csv", "x,image,prompt,x\n1,a.png,a star,2\n")) == (["a star"], [])


@pytest.mark.parametrize("mark", [";", "\t"])
def test_semicolons_and_tabs_part_cells_if_only_so_the_columns_are_there(tmp_path, mark):
    assert rows_of(write(tmp_path / "p.csv", f"image{mark}prompt\na.png{mark}a star, big\n")) == (["a star, big"], [])
    assert read_prompts(write(tmp_path / "q.csv", f"id{mark}prompt\n1{mark}a star, big\n")) == ["a star, big"]
    assert read_prompts(write(tmp_path / "q.csv", f'id,prompt\n1,"a star{mark} big"\n')) == [
        " ".join(f"a star{mark} big".split())
    ]


@pytest.mark.parametrize("row", ["a key, big", "a key; big", "a key\tbig"])
def test_prompts_without_a_head_that_may_be_several_cells_are_refused(tmp_path, row):
    with pytest.raises(InputError, match=r"row 2 of prompts file .*may be several cells.*name the column 'prompt'"):
        read_prompts(write(tmp_path / "p.csv", f"a star\n{row}\n"))


def test_csv_cells_that_spreadsheets_would_run_are_defused():
    rows = [{"prompt": text, "score": -0.5} for text in ("=1+1", "+1", "-1", "@x", "\tx", "\rx", "a=1")]
    found = list(csv.DictReader(io.StringIO(table_bytes(rows, ".csv").decode(), newline="")))
    assert [r["prompt"] for r in found] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "'\rx", "a=1"] and {
        r["score"] for r in found
    } == {"-0.5"}
    assert [json.loads(line)["prompt"] for line in table_bytes(rows, ".jsonl").decode().splitlines()] == [
        r["prompt"] for r in rows
    ]


def test_parquet_takes_the_columns_of_all_rows():
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(io.BytesIO(table_bytes([{"a": 1}, {"a": 2, "b": 3}], ".parquet"))).to_pylist()
    assert found == [{"a": 1, "b": None}, {"a": 2, "b": 3}]


# --- JSON -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "line",
    [
        '{"image": "a.png", "prompt": "a star", "prompt": "a moon"}',
        '{"image": "a.png", "prompt": "a star", "score": NaN}',
        "[" * 100_000,
        '{"image": "a.png", "prompt": "' + "x" * 110_000 + '"}',
    ],
    ids=["twice", "nan", "deep", "long"],
)
def test_a_broken_jsonl_row_is_listed_and_costs_itself_alone(tmp_path, line):
    good = '{"image": "b.png", "prompt": "a key"}'
    assert rows_of(write(tmp_path / "p.jsonl", f"{line}\n{good}\n")) == (["a key"], [1])


def test_jsonl_lines_end_with_cr_too_and_with_nothing_else(tmp_path):
    good = '{"image": "b.png", "prompt": "a\u2028key\x85"}'
    assert rows_of(write(tmp_path / "p.jsonl", f"{good}\r{good}\r\n{good}\n"))[0] == ["a\u2028key"] * 3


# --- prompts --------------------------------------------------------------------------------------------------------
def test_only_line_ends_part_prompts(tmp_path):
    text = "a star\u2028over\x85a\x0bkey\x0c\x1cx\r\na moon\ra fish\n"
    assert read_prompts(write(tmp_path / "p.txt", text)) == ["a star over a key x", "a moon", "a fish"]
    assert read_prompts(write(tmp_path / "p.jsonl", '"a star"\r"a key"\r')) == ["a star", "a key"]


@pytest.mark.parametrize(
    ("name", "data", "prompts", "row"),
    [
        ("p.txt", b"a star\ncaf\xe9\na key\n", ["a star", "a key"], 2),
        ("p.txt", b"a star\n" + b"x" * 110_000 + b"\na key\n", ["a star", "a key"], 2),
        ("p.csv", b'prompt,x\na star,1\n"a moon,2\na key,3\n', ["a star", "a key"], 2),
        ("p.csv", b"prompt,x\na star,1\na moon, big,2\na key,3\n", ["a star", "a key"], 2),
        ("p.csv", b"prompt,x\na star,1\na moon\na key,3\n", ["a star", "a key"], 2),
        ("p.tsv", b"x\tprompt\n1\ta star\n2\ta moon\t3\n3\ta key\n", ["a star", "a key"], 2),
        ("p.jsonl", b'"a star"\n["a moon"]\n"a key"\n', ["a star", "a key"], 2),
        ("p.jsonl", b'"a star"\n{"x": "a moon"}\n"a key"\n', ["a star", "a key"], 2),
        ("p.jsonl", b'"a star"\n{"prompt": ["a moon"]}\n"a key"\n', ["a star", "a key"], 2),
        ("p.jsonl", b'"a star"\n{"prompt": "a moon", "prompt": "x"}\n"a key"\n', ["a star", "a key"], 2),
        ("p.jsonl", b'"a star"\n' + b"[" * 100_000 + b'\n"a key"\n', ["a star", "a key"], 2),
        ("p.jsonl", b'"a star"\n"\xff"\n"a key"\n', ["a star", "a key"], 2),
        ("p.json", b'["a star", ["a moon"], "a key"]', ["a star", "a key"], 2),
    ],
)
def test_broken_prompts_are_named_or_listed(tmp_path, name, data, prompts, row):
    path = write(tmp_path / name, data)
    with pytest.raises(
        InputError, match=f"^(row|line) {row} of prompts file .* cannot be read \\(.*\\); mend it there"
    ):
        read_prompts(path)
    listed = PairsFile()
    assert read_prompts(path, listed) == prompts and [s["row"] for s in listed.skipped] == [row]


def test_several_broken_prompts_are_counted(tmp_path):
    with pytest.raises(InputError, match=r"line 1 of .*, nor can 2 more; mend"):
        read_prompts(write(tmp_path / "p.jsonl", "[]\n{\n3\n"))
    with pytest.raises(InputError, match="holds no prompt"):
        read_prompts(tmp_path / "p.jsonl", PairsFile())


def test_prompts_beyond_the_budget_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCORD_MAX_TABLE_MB", "1")
    for name, data in (("p.txt", "a\n" * 20_000), ("p.json", "[" + "[]," * 100_000 + "[]]")):
        with pytest.raises(InputError, match="ACCORD_MAX_TABLE_MB"):
            read_prompts(write(tmp_path / name, data))
    with pytest.raises(InputError, match="ACCORD_MAX_TABLE_MB"):
        read_pairs(write(tmp_path / "p.csv", "image,prompt\n" + f"a.png,{'x' * 90_000}\n" * 12))


# --- Parquet --------------------------------------------------------------------------------------------------------
def parquet(path, columns, **kwargs):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **kwargs)
    return path


def test_columns_of_other_kinds_and_dates_out_of_range_are_broken_rows(tmp_path):
    pa = pytest.importorskip("pyarrow")
    names = ["a.png", "b.png"]
    never = pa.array([2**62, 0]).cast(pa.timestamp("ms"))
    for odd in (
        never,
        pa.array([[["x"]], []]),
        pa.array([{"a": 1}, None]),
        pa.array([datetime.date(1, 1, 1), None]),
        pa.array([b"x", b"y"]),
    ):
        path = parquet(tmp_path / "p.parquet", {"image": names, "prompt": odd})
        assert rows_of(path) == ([], [1, 2])
        assert rows_of(parquet(tmp_path / "q.parquet", {"image": odd, "prompt": names})) == ([], [1, 2])
        assert rows_of(parquet(tmp_path / "r.parquet", {"image": names, "prompt": names, "when": odd}))[0] == names


def test_damaged_parquet_is_refused_in_one_sentence(tmp_path):
    good = bytearray(parquet(tmp_path / "p.parquet", {"image": ["a.png"] * 50, "prompt": ["a star"] * 50}).read_bytes())
    for i in range(0, len(good), 3):
        (tmp_path / "q.parquet").write_bytes(bytes(good[:i]) + bytes([good[i] ^ 0x55]) + bytes(good[i + 1 :]))
        try:
            read_pairs(tmp_path / "q.parquet")
        except InputError as error:
            assert "\n" not in str(error)


def test_two_parquet_columns_of_one_name_are_refused(tmp_path):
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_arrays(
        [pa.array(["a.png"]), pa.array(["a star"]), pa.array(["a key"])], names=["image", "prompt", "prompt"]
    )
    with pytest.raises(InputError, match="two columns 'prompt'"):
        read_pairs(parquet(tmp_path / "p.parquet", table))


MEMORY = """
import resource, sys
from accord.data.pairs import read_pairs, need_parquet
need_parquet()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = read_pairs(sys.argv[1])
print(len(found.pairs), len(found.skipped), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_small_parquet_of_a_large_text_stays_small(tmp_path):
    path = parquet(tmp_path / "p.parquet", {"image": ["a.png"] * 1001, "prompt": [*["x" * 10**6] * 1000, "a star"]})
    assert path.stat().st_size < 200_000
    good, broken, grown = map(int, run(MEMORY, str(path)).split())
    assert (good, broken) == (1, 1000) and grown < 300


def test_equal_texts_of_a_parquet_file_are_one(tmp_path):
    found = read_pairs(
        parquet(tmp_path / "p.parquet", {"image": ["a.png"] * 300, "prompt": ["x" * 90_000] * 300})
    ).pairs
    assert len(found) == 300 and len({id(p.prompt) for p in found}) == 1


def test_a_parquet_column_beyond_the_budget_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCORD_MAX_TABLE_MB", "1")
    texts = [f"{i:09d}" * 1000 for i in range(300)]
    with pytest.raises(InputError, match=r"row groups of more than 1 MB.*ACCORD_MAX_TABLE_MB"):
        read_pairs(parquet(tmp_path / "p.parquet", {"image": texts, "prompt": texts}))
    found = list(
        stream_pairs(parquet(tmp_path / "p.parquet", {"image": texts, "prompt": texts}, row_group_size=20), PairsFile())
    )
    assert [p.prompt for p in found] == texts


# --- streams --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_first_pair_of_a_long_table_comes_before_the_rest_is_read(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    n = 20_000
    prompts = [f"a star {i}" for i in range(n)] + [""]
    if suffix == ".parquet":
        parquet(path, {"image": [f"{i}.png" for i in range(n + 1)], "prompt": prompts})
    elif suffix == ".csv":
        write(path, "image,prompt\n" + "".join(f"{i}.png,{p}\n" for i, p in enumerate(prompts)))
    else:
        write(path, "".join(f'{{"image": "{i}.png", "prompt": "{p}"}}\n' for i, p in enumerate(prompts)))
    table = PairsFile()
    stream = stream_pairs(path, table)
    assert next(stream).prompt == "a star 0" and not table.skipped
    assert len(list(stream)) == n - 1 and [s["row"] for s in table.skipped] == [n + 1]


def test_pairs_know_what_their_table_calls_them(tmp_path):
    table = write(tmp_path / "p.csv", "image,prompt\n../x/./a.png,a star\nb.png,a key\n")
    found = read_pairs(table).pairs
    assert [p.name for p in found] == ["../x/./a.png", "b.png"]
    assert [p.image for p in found] == [
        str(tmp_path.resolve().parent / "x" / "a.png"),
        str(tmp_path.resolve() / "b.png"),
    ]
    write_part(tmp_path / "d", 1, [Image.new("RGB", (2, 2))], [ROW])
    (pair,) = stream_pairs(tmp_path / "d", PairsFile())
    assert pair.name == "part-000001/000001-000000.png" and pair.image == str(tmp_path / "d" / pair.name)


def test_more_broken_rows_than_can_be_listed_are_refused(tmp_path, monkeypatch):
    from accord.data import pairs

    monkeypatch.setattr(pairs, "MOST_BROKEN", 10, raising=False)
    with pytest.raises(InputError, match="more than 10 rows of the pairs are broken"):
        read_pairs(write(tmp_path / "p.csv", "image,prompt\n" + "x\n" * 11))


# --- files and folders ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("read", [read_pairs, read_prompts, lambda path: list(stream_pairs(path, PairsFile()))])
def test_pipes_are_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "p.csv")
    with within(5), pytest.raises(InputError, match=r"file '.*' is a pipe, a device or a socket"):
        read(tmp_path / "p.csv")


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.parquet", "part-000001/part-000001.json"])
def test_pipes_within_a_folder_are_refused_too(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    listed = PairsFile()
    with within(5):
        try:
            list(stream_pairs(tmp_path, listed))
        except InputError as error:
            assert "is a pipe, a device or a socket" in str(error)
        else:
            assert [s["reason"] for s in listed.skipped] == ["part-000001.json cannot be read"]


def test_loops_and_impossible_names_are_refused(tmp_path):
    (tmp_path / "a.csv").symlink_to("a.csv")
    for name in ("a.csv", "x" * 300 + ".csv", "a\0.csv"):
        for read in (read_pairs, read_prompts, lambda p: list(stream_pairs(p, PairsFile()))):
            with pytest.raises(InputError, match=r"cannot be opened|do not exist"):
                read(tmp_path / name)


def test_hidden_parts_are_no_parts_and_names_stay_within_theirs(tmp_path):
    write_part(tmp_path, 1, [Image.new("RGB", (2, 2))], [ROW])
    os.rename(tmp_path / "part-000001", tmp_path / ".accord.ab.1-2.0.part")
    with pytest.raises(InputError, match="holds no pairs"):
        list(stream_pairs(tmp_path, PairsFile()))
    (tmp_path / "part-000002").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    index = {"../secret.png": ROW, str(tmp_path / "secret.png"): ROW, "a\0b": ROW, "x" * 300: ROW}
    (tmp_path / "part-000002" / "part-000002.json").write_text(json.dumps(index))
    listed = PairsFile()
    assert list(stream_pairs(tmp_path, listed)) == [] and len(listed.skipped) == 4


@pytest.mark.parametrize(
    "index",
    ["[" * 100_000, '{"a.png": {"p": "x"}, "a.png": {"p": "y"}}', '{"a.png": {"se": ' + "9" * 5000 + "}}"],
    ids=["deep", "twice", "digits"],
)
def test_a_damaged_index_costs_its_part_alone(tmp_path, index):
    write_part(tmp_path, 1, [Image.new("RGB", (2, 2))], [ROW])
    (tmp_path / "part-000002").mkdir()
    (tmp_path / "part-000002" / "part-000002.json").write_text(index)
    listed = PairsFile()
    assert len(list(stream_pairs(tmp_path, listed))) == 1 and [s["row"] for s in listed.skipped] == [0]
    assert read_part(tmp_path, 2) is None
    with pytest.raises(InputError, match="make or fetch that part again"):
        write_metadata(tmp_path)


@pytest.mark.parametrize("row", [{"p": "x"}, "x", {**ROW, "se": 10**30}, {**ROW, "c": "much"}])
def test_an_index_that_makes_no_table_is_named(tmp_path, row):
    write_part(tmp_path, 1, [Image.new("RGB", (2, 2))], [ROW])
    write_part(tmp_path, 2, [Image.new("RGB", (2, 2))], [row])
    with pytest.raises(InputError, match=r"make (that part|them) again"):
        write_metadata(tmp_path)


FULL = """
import os, resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from accord.data.pair_folders import write_metadata, write_part
from accord.types import InputError
folder, row = Path(sys.argv[1]), {"p": "a star", "se": 1, "c": 7.0, "st": 5, "sa": "x"}
noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
write_part(folder, 1, [Image.new("RGB", (2, 2))], [row])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for call in (lambda: write_part(folder, 2, [noise], [row]), lambda: write_metadata(folder)):
    try:
        call()
    except InputError as error:
        print(error)
print(sorted(os.listdir(folder)))
"""


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    part, metadata, left = run(FULL, str(tmp_path)).splitlines()
    assert (
        "part-000002' cannot be written" in part
        and "metadata.parquet' cannot be written" in metadata
        and left == "['part-000001']"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.pop("nouns"),
        lambda raw: raw.update(colors="red"),
        lambda raw: raw.update(max_count=10**9),
        lambda raw: raw.update(sizes=[1]),
        lambda raw: raw.update(odd=1),
        lambda raw: raw.update(same=[[1]]),
    ],
)
def test_a_damaged_lexicon_is_named(tmp_path, change):
    from accord.data.lexicon import DEFAULT, Lexicon

    DEFAULT.save(tmp_path / "lexicon.json")
    raw = json.loads((tmp_path / "lexicon.json").read_text())
    change(raw)
    (tmp_path / "lexicon.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"lexicon .*lexicon.json'"):
        Lexicon.load(tmp_path / "lexicon.json")
