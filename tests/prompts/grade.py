#!/usr/bin/env python3
"""Grade a prompt parser.   python3 grade.py GOLD.jsonl PREDICTIONS.jsonl [--skip on] [--show 20]
                            python3 grade.py --self-test [GOLD.jsonl ...]

Gold and predictions: one JSON object a line; predictions need prompt, things, relations, absent (language, style if there).
Predictions are found by their prompt; a missing one is wrong. Only the standard library; exit 0 unless a self-test fails.

A prompt is right if things, relations and absent all equal the gold or the same one of its "also" alternatives:
- things: as a multiset of (head, count, set of colour/size/material words). Heads ignore case; a prediction's head may be the
  gold's compound, its last word, or its last words. Attributes are split into words ("light-blue" = "light blue" =
  ["light", "blue"]); words that are no colour, size or material (fluffy, old, bright, striped, long ...) are left out on both
  sides; "light", "dark", "pale" ... count only beside a colour; grey is gray, colour is color. Order does not matter.
- relations: as a set between matched things. a right b = b left a, a below b = b above a, a behind b = b front a, near is
  symmetric. What a gold lists in "loose" may be said or not. --skip on leaves a name out on both sides.
- absent: as a set of heads. A gold without "absent" in an alternative uses that of the prompt.
- language: a prompt that is not English is right if the prediction's language is another than "en" (nothing else is looked at);
  an English one must not be called anything else (no language given = English).

Conventions of the gold (both files):
  places and things one can see are things (field, kitchen, sky, hair, head); media, style, light, view, background, time of day and
  text in quotes are not. "on X" (sitting on, printed on, perched on) is "on"; "on (the) top of" is above or on; "on the bottom of",
  under ... is below; on side of, next to, beside, near is near; hidden by is behind; "inside" is inside, but "in X" is only loose.
  with, of, by, at, into, past, between, around, leaning against, chasing, riding, holding, wearing: no relation (some loose).
  "on it", "on top" without a noun: loose. A relation belongs to the subject of its clause; where it may as well be the nearest noun's or
  only the last of coordinated ones', both are right. Mass nouns and bare plurals are null; singulars without an article are 1.
  Possessors and what somebody is dressed as may be things or not. Collectives (a group of, a pair of) are no things; containers are.
  "made of X" gives X as an attribute. A head that a coordination leaves out is said as the one it has ("four red and two blue balls").
"""

import collections
import copy
import json
import re
import sys

COLORS = set(
    "red orange yellow green blue purple pink brown black white gray cyan turquoise violet crimson golden gold silver beige magenta "
    "teal emerald navy maroon tan scarlet olive lavender coral lilac indigo ivory cream amber bronze copper ginger blond blonde khaki "
    "mauve fuchsia burgundy charcoal peach plum mustard mint salmon rust ruby sapphire azure aqua lime ochre sepia auburn vermilion "
    "chartreuse cerulean periwinkle taupe ecru".split()
)
SHADES = set("light dark pale deep off rose sky hot forest baby royal neon pastel".split())  # only beside a colour
SIZES = set(
    "big large huge giant gigantic enormous massive colossal immense oversized small little tiny mini miniature minuscule petite tall "
    "short".split()
)
MATERIALS = set(
    "wooden wood metal metallic stone glass leather plastic paper brick bricks marble ceramic wool woolen woollen silk velvet denim bronze "
    "copper iron steel brass gold silver tin clay porcelain rubber straw wicker concrete cotton linen ice crystal jade bamboo cardboard "
    "felt chrome granite slate reed reeds aluminium aluminum satin lace suede terracotta papier-mache burlap canvas".split()
)
KNOWN = COLORS | SIZES | MATERIALS
NAMES = {"left", "right", "above", "below", "near", "inside", "on", "front", "behind"}
FLIP = {"right": "left", "below": "above", "behind": "front"}
SAME = {"grey": "gray", "colour": "color", "coloured": "colored"}


def attrs(thing):
    words = []
    for a in thing.get("attributes") or []:
        words += re.split(r"[\s\-_]+", str(a).lower().strip())
    words = {SAME.get(w, w) for w in words if w}
    out = words & KNOWN
    if out & COLORS:
        out |= words & SHADES
    return frozenset(out)


def names(thing):
    """All that a prediction may call a gold thing."""
    head = str(thing.get("head", "")).lower().strip()
    full = str(thing.get("compound") or head).lower().strip()
    words = full.split()
    return {head, full} | {" ".join(words[i:]) for i in range(len(words))}


def called(thing):
    return {str(thing[k]).lower().strip() for k in ("head", "compound") if thing.get(k)}


def head_fits(gold, pred):
    return bool(names(gold) & called(pred))


def count(thing):
    n = thing.get("count")
    return int(n) if isinstance(n, (int, float)) and not isinstance(n, bool) else None


def fits(gold, pred):
    return head_fits(gold, pred) and count(gold) == count(pred) and attrs(gold) == attrs(pred)


def canon(i, name, j):
    if name in FLIP:
        i, name, j = j, FLIP[name], i
    return (min(i, j), name, max(i, j)) if name == "near" else (i, name, j)


def relations(rows, skip, mapping=None):
    """Canonical relations; indices through `mapping`, what has no place there as a string of its own."""
    out = set()
    for row in rows or []:
        try:
            i, name, j = int(row[0]), str(row[1]).lower(), int(row[2])
        except (TypeError, ValueError, IndexError, KeyError):
            out.add((-1, "broken", -1))
            continue
        if name in skip:
            continue
        if mapping is not None:
            i, j = mapping.get(i, -1000 - i), mapping.get(j, -1000 - j)
        out.add(canon(i, name, j))
    return out


def best_matching(gold, pred, test):
    """Largest matching {pred index: gold index} by augmenting paths, the earliest first."""
    of_gold = {}

    def place(p, seen):
        for g in range(len(gold)):
            if g not in seen and test(gold[g], pred[p]):
                seen.add(g)
                if g not in of_gold or place(of_gold[g], seen):
                    of_gold[g] = p
                    return True
        return False

    for p in range(len(pred)):
        place(p, set())
    return {p: g for g, p in of_gold.items()}


def perfect_matchings(gold, pred, limit=2000):
    """All ways to match every predicted thing with a gold one of its own (up to `limit`)."""
    if len(gold) != len(pred):
        return
    options = [[g for g in range(len(gold)) if fits(gold[g], p)] for p in pred]
    left = [limit]

    def go(p, used):
        if left[0] <= 0:
            return
        if p == len(pred):
            left[0] -= 1
            yield {i: g for i, g in enumerate(used)}
            return
        for g in options[p]:
            if g not in used:
                yield from go(p + 1, [*used, g])

    yield from go(0, [])


def absent_names(rows):
    return {str(x.get("head", "") if isinstance(x, dict) else x).lower().strip() for x in rows or []}


def absent_fits(gold, pred):
    gold, pred = absent_names(gold), absent_names(pred)
    cover = {p: {g for g in gold if p in names({"head": g.split()[-1] if g else g, "compound": g})} for p in pred}
    return all(cover.values()) and set().union(*cover.values(), set()) == gold


def f1(tp, n_gold, n_pred):
    return 1.0 if not n_gold and not n_pred else 2 * tp / (n_gold + n_pred)


def compare(want, pred, skip):
    """One alternative against a prediction: a dict of verdicts and counts."""
    gold, got = want["things"], [t if isinstance(t, dict) else {"head": t} for t in pred.get("things") or []]
    goal = relations(want["relations"], skip)
    loose = relations(want.get("loose"), skip) - goal
    things_right, best = False, None
    for mapping in perfect_matchings(gold, got):
        things_right = True
        said = relations(pred.get("relations"), skip, mapping) - loose
        score = (said == goal, f1(len(said & goal), len(goal), len(said)))
        if best is None or score > best[0]:
            best = (score, said)
        if score[0]:
            break
    exact = best_matching(gold, got, fits)
    heads = best_matching(gold, got, head_fits)
    if best is None:
        mapping = dict(exact)
        for p, g in heads.items():
            if p not in mapping and g not in mapping.values():
                mapping[p] = g
        said = relations(pred.get("relations"), skip, mapping) - loose
    else:
        said = best[1]
    out = {
        "things": things_right,
        "relations": said == goal,
        "absent": absent_fits(want["absent"], pred.get("absent")),
        "t": (len(exact), len(gold), len(got)),
        "h": (len(heads), len(gold), len(got)),
        "r": (len(said & goal), len(goal), len(said)),
    }
    out["right"] = out["things"] and out["relations"] and out["absent"]
    return out


def alternatives(gold):
    yield {k: gold.get(k) or [] for k in ("things", "relations", "absent", "loose")}
    for other in gold.get("also") or []:
        yield {
            "things": other.get("things", gold["things"]),
            "relations": other.get("relations", gold["relations"]),
            "absent": other.get("absent", gold.get("absent") or []),
            "loose": other.get("loose", gold.get("loose") or [] if "things" not in other else []),
        }


def english(row):
    said = row.get("language")
    return not said or str(said).lower() in {"en", "eng", "english"}


def style_words(row):
    words = re.findall(r"[\w./-]+", " ".join(str(s) for s in row.get("style") or []).lower())
    return collections.Counter(w for w in words if w not in {"a", "an", "the", "of", "on", "in", "by", "and"})


def grade_one(gold, pred, skip=frozenset()):
    """The verdict of the alternative that fits best. Not English: only `right` and `language`."""
    missing = pred is None
    pred = pred or {}
    language = english(gold) == english(pred) and not missing
    if not english(gold):
        return {
            "right": language,
            "language": language,
            "things": language,
            "relations": language,
            "absent": language,
            "foreign": True,
        }
    best = max(
        (compare(want, pred, skip) for want in alternatives(gold)),
        key=lambda c: (c["right"], c["things"], f1(*c["t"]) + f1(*c["r"]), f1(*c["h"]), c["absent"]),
    )
    if missing:
        best.update(things=False, relations=False, absent=False)
    best["language"] = language
    best["right"] = best["right"] and language
    best["foreign"] = False
    want, said = style_words(gold), style_words(pred)
    best["s"] = (sum((want & said).values()), sum(want.values()), sum(said.values()))
    return best


def load(path):
    with open(path, encoding="utf8") as f:
        return [json.loads(line) for line in f if line.strip()]


def grade(golds, preds, skip=frozenset()):
    by_prompt = {p.get("prompt"): p for p in preds if isinstance(p, dict)}
    return [(g, by_prompt.get(g["prompt"]), grade_one(g, by_prompt.get(g["prompt"]), skip)) for g in golds]


def line(name, verdicts):
    n = len(verdicts)
    right = sum(v["right"] for v in verdicts)
    part = [sum(v[k] for v in verdicts) for k in ("things", "relations", "absent")]
    cells = [f"{name:<13}{n:>4}{right:>7}{100 * right / n:>8.1f}"] + [f"{p:>8}" for p in part]
    spoken = [v for v in verdicts if not v["foreign"]]
    for k in "thrs":
        tp, a, b = (sum(x) for x in zip(*(v[k] for v in spoken))) if spoken else (0, 0, 0)
        cells.append(f"{100 * f1(tp, a, b):>9.1f}" if a or b else f"{'-':>9}")
    return "".join(cells)


def report(results):
    head = f"{'kind':<13}{'n':>4}{'right':>7}{'%':>8}{'things':>8}{'relat.':>8}{'absent':>8}{'thingsF1':>9}{'headsF1':>9}{'relF1':>9}{'styleF1':>9}"
    print(head)
    kinds = collections.OrderedDict()
    for gold, _, verdict in results:
        kinds.setdefault(gold.get("kind", "?"), []).append(verdict)
    for kind, verdicts in kinds.items():
        print(line(kind, verdicts))
    print(line("all", [v for _, _, v in results]))


def show(results, limit):
    for gold, pred, v in [r for r in results if not r[2]["right"]][:limit]:
        wrong = (
            "nothing predicted"
            if pred is None
            else ", ".join(k for k in ("language", "things", "relations", "absent") if not v[k])
        )
        print(f"\n[{gold.get('kind')}] {gold['prompt']!r}: {wrong}")
        for name, row in (("gold", gold), ("said", pred or {})):
            things = [
                f"{count(t)} {','.join(map(str, t.get('attributes') or []))} {t.get('compound') or t.get('head')}"
                for t in row.get("things") or []
            ]
            print(f"   {name} {things} {row.get('relations')} absent {row.get('absent')}")


def self_test(paths):
    """Gold against itself, its alternatives, and spoilt copies; some cases by hand."""

    def t(head, n=1, *a, **k):
        return {"head": head, "count": n, "attributes": list(a), **k}

    def ok(gold, pred, skip=frozenset()):
        return grade_one({"prompt": "", "relations": [], "absent": [], "language": "en", **gold}, pred, skip)["right"]

    two = {"things": [t("cat"), t("dog", 1, "red", compound="hot dog")], "relations": [[0, "left", 1]]}
    assert ok(two, {"things": [t("Cat"), t("hot dog", 1, "Red", "fluffy")], "relations": [[1, "right", 0]]})
    assert ok(two, {"things": [t("dog", 1, "red"), t("cat")], "relations": [[0, "right", 1]]})  # another order
    assert not ok(two, {"things": [t("dog", 1, "red"), t("cat")], "relations": [[0, "left", 1]]})
    assert not ok(two, {"things": [t("cat"), t("dog", 1, "red")], "relations": []})
    assert ok(two, {"things": [t("cat"), t("dog", 1, "red")], "relations": []}, {"left", "right"})
    assert not ok(two, {"things": [t("cat"), t("dog", 1, "blue")], "relations": [[0, "left", 1]]})
    assert not ok(two, {"things": [t("cat"), t("dog", None, "red")], "relations": [[0, "left", 1]]})
    assert not ok(two, {"things": [t("cat"), t("dog", 1, "red"), t("photo")], "relations": [[0, "left", 1]]})
    assert not ok(two, {**two, "absent": ["fish"]}) and not ok({**two, "absent": ["fish"]}, two)
    assert ok({**two, "absent": ["fire hydrant"]}, {**two, "absent": ["Hydrant"]}) and not ok(
        two, {**two, "language": "de"}
    )
    assert ok({"things": [t("car", 1, "light-blue")]}, {"things": [t("car", 1, "light", "blue")]})
    assert not ok({"things": [t("car", 1, "light-blue")]}, {"things": [t("car", 1, "blue")]})
    twins = {"things": [t("ball"), t("ball"), t("box")], "relations": [[1, "on", 2]], "loose": [[0, "inside", 2]]}
    assert ok(twins, {"things": twins["things"], "relations": [[0, "on", 2]]})  # the balls are the same
    assert ok(twins, {"things": twins["things"], "relations": [[1, "on", 2], [0, "inside", 2]]})
    assert not ok(twins, {"things": twins["things"], "relations": [[1, "on", 2], [1, "inside", 2]]})
    assert ok({"things": [], "language": "fr"}, {"things": [t("chat")], "language": "fr"})
    assert not ok({"things": [], "language": "fr"}, {"things": []})
    assert not ok(two, None) and not ok(two, {"things": None, "relations": [None], "absent": None})
    done = ["by hand"]
    for path in paths:
        golds = load(path)
        results = grade(golds, copy.deepcopy(golds))
        assert all(v["right"] for _, _, v in results), [g["prompt"] for g, _, v in results if not v["right"]]
        assert all(
            a == b == c for _, _, v in results if not v["foreign"] for a, b, c in (v["t"], v["h"], v["r"], v["s"])
        ), path
        for gold in golds:
            base = {"prompt": gold["prompt"], "language": gold["language"]}
            for want in alternatives(gold):
                assert grade_one(gold, {**base, **want})["right"], gold["prompt"]
            if gold["language"] != "en":
                assert not grade_one(gold, {**gold, "language": "en"})["right"], gold["prompt"]
                continue
            extra = {**gold, "things": [*gold["things"], t("zeppelin")]}
            assert not grade_one(gold, extra)["right"], gold["prompt"]
            assert not grade_one(gold, {**gold, "absent": [*gold["absent"], "zeppelin"]})["right"], gold["prompt"]
            if gold["relations"]:
                (i, name, j), *rest = gold["relations"]
                turned = "left" if name != "left" else "front"
                assert not grade_one(gold, {**gold, "relations": [[i, turned, j], *rest]})["right"], gold["prompt"]
            spoilt = copy.deepcopy(gold)
            spoilt["things"][0]["count"] = 99
            assert not grade_one(gold, spoilt)["right"], gold["prompt"]
            spoilt = copy.deepcopy(gold)
            spoilt["things"][-1]["attributes"].append("chartreuse")
            assert not grade_one(gold, spoilt)["right"], gold["prompt"]
        assert not any(v["right"] for _, _, v in grade(golds, []))
        print(f"{path}: {len(golds)} prompts, gold against itself 100 %")
        done.append(path)
    print("self-test passed:", ", ".join(done))


def main(argv):
    if "--self-test" in argv:
        self_test([a for a in argv if a != "--self-test"])
        return 0
    args, skip, limit = [], set(), 0
    it = iter(argv)
    for a in it:
        if a == "--skip":
            skip = set(next(it, "").split(","))
        elif a == "--show":
            limit = int(next(it, "20"))
        else:
            args.append(a)
    if len(args) != 2:
        print(__doc__)
        return 0
    results = grade(load(args[0]), load(args[1]), skip)
    report(results)
    show(results, limit)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
