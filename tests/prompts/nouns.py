"""Write src/accord/prompts/nouns.txt: classes of nouns, from the Open English WordNet.

    python tests/prompts/nouns.py FOLDER

FOLDER is a clone of https://github.com/globalwordnet/english-wordnet. A noun has the class of its first sense; it is
abstract if its second one is too; those with an ending of abstract nouns are left out, and the others with such an
ending are listed as seen. Only single words that spaCy's lemmatizer knows are kept.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from accord.prompts import model
from accord.prompts.nouns import SUFFIX

OUT = Path(__file__).parents[2] / "src" / "accord" / "prompts" / "nouns.txt"
ABSTRACT = set(
    "communication act state attribute cognition quantity time possession event process relation feeling motive".split()
)
HEAD = """\
# Classes of nouns, from the Open English WordNet (https://en-word.net, CC BY 4.0), which derives from Princeton WordNet
# (WordNet 3.0 Copyright 2006 by Princeton University, all rights reserved). Made by tests/prompts/nouns.py.
"""


def senses(folder: Path) -> dict[str, list[str]]:
    """The classes of each noun's senses, in their order."""
    files = {}
    for path in folder.glob("src/yaml/noun.*.yaml"):
        found = re.findall(r"^(\d{8}-n):", path.read_text(encoding="utf8"), re.MULTILINE)
        files |= dict.fromkeys(found, path.name.split(".")[1])
    out: dict[str, list[str]] = {}
    for path in folder.glob("src/yaml/entries-*.yaml"):
        word = part = ""
        for line in path.read_text(encoding="utf8").splitlines():
            if line and not line[0].isspace():
                word, part = line.rstrip(":").strip("'\""), ""
            elif re.fullmatch(r"  [a-z](-\d)?:", line):
                part = line.strip()[0]
            elif part == "n" and (found := re.search(r"synset: (\d{8}-n)", line)):
                out.setdefault(word, []).append(files[found[1]])
    return out


def main(folder: Path) -> None:
    known = model.classes(None).nouns
    classes: dict[str, list[str]] = {"person": [], "animal": [], "abstract": [], "seen": []}
    for word, kinds in sorted(senses(folder).items()):
        if not re.fullmatch("[a-z]{3,}", word) or word not in known:
            continue
        if kinds[0] in ("person", "animal"):
            classes[kinds[0]].append(word)
        abstract, ends_so = set(kinds[:2]) <= ABSTRACT, bool(SUFFIX.search(word))
        if abstract and not ends_so:
            classes["abstract"].append(word)
        elif ends_so and not abstract:
            classes["seen"].append(word)
    lines = [HEAD]
    for name, words in classes.items():
        lines += [f"[{name}]\n", *(f"{line}\n" for line in textwrap.wrap(" ".join(words), 118))]
    OUT.write_text("".join(lines), encoding="utf8")
    print(OUT, {name: len(words) for name, words in classes.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
