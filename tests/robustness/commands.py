"""Command lines that must be refused: exit code 2, nothing on stdout, one line on stderr, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sqlite3
from pathlib import Path

from PIL import Image

# what each command needs at least, with the small files of `make_files`
LEAST = {
    "generate": ["generate", "a star"],
    "score": ["score", "star.png", "a star"],
    "realign": ["realign", "a star"],
    "edit": ["edit", "video.gif", "--source", "a star", "--target", "a key"],
    "invert": ["invert", "star.png"],
    "info": ["info"],
    "studio": ["studio", "--port", "0"],
    "train lab": ["train", "lab", "vae"],
    "train reward": ["train", "reward", "--prompts", "prompts.txt"],
    "train inverter": ["train", "inverter", "--pairs", "pairs.csv"],
    "train context": ["train", "context"],
    "pairs make": ["pairs", "make", "--out", "made"],
    "pairs videos": ["pairs", "videos", "--out", "made"],
    "eval checks": ["eval", "checks", "--prompts", "prompts.txt", "--model", "lab", "--out", "evalrun"],
    "eval captions": ["eval", "captions", "--prompts", "prompts.txt", "--model", "lab", "--out", "evalrun"],
    "eval scenes": ["eval", "scenes", "--model", "lab", "--out", "evalrun"],
    "eval questions": ["eval", "questions", "--prompts", "questions.csv", "--model", "lab", "--out", "evalrun"],
    "eval geneval2": ["eval", "geneval2", "--prompts", "questions.csv", "--model", "lab", "--out", "evalrun"],
    "eval vqascore": ["eval", "vqascore", "--prompts", "prompts.txt", "--model", "lab", "--out", "evalrun"],
    "eval geneval": ["eval", "geneval", "--prompts", "records.jsonl", "--model", "lab", "--out", "evalrun"],
    "eval merge": ["eval", "merge", "folder"],
    "eval compare": ["eval", "compare", "folder", "pictures", "--out", "evalrun"],
    "eval prompts": ["eval", "prompts", "--count", "3", "--out", "drawn.jsonl"],
    "eval agreement": ["eval", "agreement", "folder", "records.jsonl"],
    "bench scenes": ["bench", "scenes", "--quick", "--out", "table"],
    "bench rewards": ["bench", "rewards", "--quick", "--so-far", "--out", "table"],
    "bench invert": ["bench", "invert", "--quick", "--out", "table"],
    "bench context": ["bench", "context", "--quick", "--so-far", "--out", "table"],
    "bench video": ["bench", "video", "--quick", "--so-far", "--out", "table"],
    "bench speed": ["bench", "speed", "--quick", "--out", "table"],
    **{
        f"bench {name}": ["bench", name, "--quick", "--out", "table"]
        for name in (
            "sensitivity",
            "roles",
            "hacking",
            "kernel",
            "judging",
            "scaling",
            "judge",
            "transplant",
            "invert-speed",
            "context-cost",
            "video-memory",
            "speed-tuning",
            "studio",
        )
    },
    "bench speed-large": ["bench", "speed-large", "--out", "table"],
}
FLOATS = {
    "generate": "--guidance --gpus-per-worker --max-failures",
    "realign": "--guidance --strength --good-enough --gpus-per-worker --max-failures",
    "score": "--gpus-per-worker --max-failures",
    "invert": "--gpus-per-worker --max-failures",
    "edit": "--learning-rate --guidance --strength --injection --mask-blending --modulation",
    "train reward": "--learning-rate --stop-from --stop-until --guidance --reward-weight --pretrain-weight --kl-weight "
    "--pairs-least --gpus-per-worker",
    "train inverter": "--weight --learning-rate --vocabulary-weight --similar",
    "train context": "--learning-rate --gain --share --estimated-share",
    "pairs make": "--guidance --gpus-per-worker --max-failures",
    **{
        f"eval {name}": "--guidance --gpus-per-worker"
        for name in ("checks captions questions geneval2 vqascore scenes").split()
    },
    "eval geneval": "--threshold --counting-threshold --shortening --direction --guidance --gpus-per-worker",
    "bench rewards": "--minutes",
}
INTEGERS = {
    "generate": "--seed --steps --batch-size --num-workers",
    "realign": "--seed --rounds --steps --batch-size --num-workers",
    "edit": "--tune-steps --steps --window --seed",
    "studio": "--port",
    "train lab": "--steps --seed",
    "train reward": (
        "--steps --batch-size --accumulate --rank --inference-steps --anchors --eval-every --save-every --seed "
        "--rollout-workers"
    ),
    "train inverter": "--steps --batch-size --vocabulary-size --limit --seed",
    "train context": "--scenes --steps --batch-size --rank --save-every --seed",
    "pairs make": "--count --steps --seed --num-workers",
    "pairs videos": "--count --frames --seed",
    "eval scenes": "--seeds --every --steps --batch-size --num-workers",
    "score": "--batch-size --num-workers",
    "eval prompts": "--count --seed",
    "bench scenes": "--seeds",
    "bench judge": "--seeds",
    "bench rewards": "--seeds",
    "bench invert": "--seeds --steps",
    "bench context": "--seeds",
    "bench video": "--edits --seeds",
}
HUGE = "9" * 25  # more than a machine's whole numbers
LONG = "star " * 400  # longer than any text encoder of the lab
DEEP = 100_000


def bad_commands(folder: Path) -> list[list[str]]:
    """Arguments of `accord` that are refused, to be run in `folder`, where the files that they name are made.

    None needs long work.
    """
    make_files(folder)
    return [
        *usage(),
        *numbers(),
        *[shlex.split(line) for line in LINES.strip().splitlines() if line.strip()],
        *odd_names(),
    ]


def usage() -> list[list[str]]:
    """Words that are no command, or not its options."""
    lines = [
        ["bogus"],
        ["train", "bogus"],
        ["pairs", "bogus"],
        ["bench", "bogus"],
        ["eval", "bogus"],
        ["--bogus"],
        ["score", "a", "b", "c"],
        ["info", "x"],
    ]
    lines += [[*least, "--no-such-option"] for least in LEAST.values()]
    lines += [
        ["generate"],
        ["realign"],
        ["edit"],
        ["train", "lab"],
        ["train", "reward"],
        ["train", "inverter"],
        ["pairs", "make"],
        ["pairs", "videos"],
    ]
    return [
        *lines,
        ["generate", "a star", "--out"],
        ["edit", "video.gif", "--source", "a star"],
        ["info", "--json", "--json=1"],
        ["bench", "speed", "--quick=maybe"],
    ]


def numbers() -> list[list[str]]:
    """Numbers that are none, or that no machine counts to."""
    lines = []
    for name, options in FLOATS.items():
        least = [w for w in LEAST[name] if w not in ("--so-far", "--quick")] if name == "bench rewards" else LEAST[name]
        for option in options.split():
            lines += [[*least, option, value] for value in ("nan", "inf", "much")]
    for name, options in INTEGERS.items():
        for option in options.split():
            lines += [[*LEAST[name], option, value] for value in ("1.5", "-1", HUGE)]
    return lines


def odd_names() -> list[list[str]]:
    """Names that are no UTF-8, too long, or those of devices; texts of thousands of words."""
    latin, long = os.fsdecode(b"\xe9.png"), "x" * 300
    return [
        ["score", latin, "a star"],
        ["score", long + ".png", "a star"],
        ["score", "star.png", os.fsdecode(b"a st\xe9r")],
        ["score", "--pairs", os.fsdecode(b"\xe9.csv"), "--out", "s.csv"],
        ["score", "star.png", "a star", "--out", long],
        ["generate", os.fsdecode(b"a st\xe9r")],
        ["generate", LONG],
        ["generate", "star " * 20_000],
        ["generate", "a star", "--out", long],
        ["generate", "a star", "--model", long],
        ["generate", "a star", "--model", os.fsdecode(b"\xe9")],
        ["generate", "a star", "--lora", os.fsdecode(b"\xe9")],
        ["generate", "a star\na key", "--context", os.fsdecode(b"\xe9")],
        ["realign", LONG],
        ["realign", "a star", LONG],
        ["realign", os.fsdecode(b"a st\xe9r")],
        ["edit", "video.gif", "--source", "a star", "--target", LONG],
        ["edit", "video.gif", "--source", LONG, "--target", "a star"],
        ["edit", os.fsdecode(b"\xe9.gif"), "--source", "a star", "--target", "a key"],
        ["edit", "video.gif", "--source", "a star", "--target", "a key", "--out", long + ".gif"],
        ["invert", latin],
        ["invert", "star.png", "--bank", os.fsdecode(b"\xe9.txt")],
        ["invert", "--folder", os.fsdecode(b"\xe9"), "--out", "i.csv"],
        ["pairs", "make", "--out", "made", "--prompts", "long.txt"],
        ["pairs", "make", "--out", long],
        ["pairs", "videos", "--out", long],
        ["train", "reward", "--prompts", "long.txt"],
        ["train", "reward", "--prompts", "prompts.txt", "--out", long],
        ["train", "lab", "vae", "--out", long],
        ["bench", "video", "--out", long],
    ]


LINES = """
eval bogus
eval scenes
eval scenes --model lab --images pictures
eval scenes --images nowhere
eval scenes --images folder
eval scenes --images afile
eval scenes --images pictures --out evalrun
eval scenes --images pictures --steps 3
eval scenes --images pictures --lora lab
eval scenes --images pictures --guidance 5
eval scenes --images pictures --dtype float32
eval scenes --model lab --variant fp16
eval scenes --model lab --shard 3/2
eval scenes --model lab --shard x
eval scenes --model lab --prompts no.txt
eval scenes --model lab --prompts says-nothing.txt
eval scenes --model lab --prompts empty.txt
eval scenes --model lab --call x
eval scenes --model lab --dtype int8
eval scenes --model lab --device toaster
eval scenes --model lab --height 3 --out new/deep
eval scenes --model lab --lora nowhere --out new/deep
eval scenes --model nobody/nothing --out new/deep
eval scenes --model folder --out new
eval scenes --model lab --out afile
eval scenes --model lab --out /dev/null
eval scenes --model lab --out badrun
eval scenes --model lab --out oldrun
eval scenes --model lab --out lostrun
eval checks --model lab
eval checks --model lab --prompts fifo.txt
eval checks --model lab --prompts prompts.pdf
eval checks --model lab --prompts one.txt --judge nowhere --out new/deep
eval checks --model lab --prompts one.txt --judge badcaptioner --out new
eval questions --model lab --prompts questions.csv
eval questions --model lab --prompts pairs.csv --judge lab
eval questions --model lab --prompts deep.json --judge lab
eval questions --model lab --prompts digits.json --judge lab
eval questions --model lab --prompts twocolumns.csv --judge lab
eval questions --model lab --prompts broken.jsonl --judge lab
eval questions --model lab --prompts star.png --judge lab
eval questions --model lab --prompts questions.csv --judge lab --out new/deep
eval geneval --model lab
eval geneval --model lab --prompts pairs.csv
eval geneval --model lab --prompts broken.jsonl
eval geneval --model lab --prompts records.jsonl --threshold 2
eval geneval --model lab --prompts records.jsonl --detector nowhere --out new
eval geneval --model lab --prompts records.jsonl --detector badcaptioner --out new
eval geneval --images folder
eval merge
eval merge folder
eval merge badrun
eval merge folder pictures
eval merge folder pictures --out new
eval merge folder --out new
eval compare folder
eval compare folder pictures
eval compare badrun oldrun
eval compare folder pictures --out afile
eval prompts --count 0 --out drawn.jsonl
eval prompts
eval prompts --out drawn.csv
eval prompts --out afile/drawn.jsonl
eval prompts --count 99999999 --out drawn.jsonl
eval agreement folder records.jsonl
eval agreement oldrun records.jsonl
generate ''
generate '  '
generate 'a star' ''
generate 'a star' --steps 0
generate 'a star' --steps 1001
generate 'a star' --guidance -1
generate 'a star' --batch-size 0
generate 'a star' --seed 9223372036854775808
generate 'a star' --dtype int8
generate 'a star' --dtype ''
generate 'a star' --device toaster
generate 'a star' --device cuda:99
generate 'a star' --device meta
generate 'a star' --device ''x
generate 'a star' --ancestral
generate 'a star' --clip x
generate 'a star' --context nowhere
generate 'a star' --context afile
generate 'a star' --context folder
generate 'a star' --context badcontext
generate 'a star' --context folder --lora lab
generate 'a star' --lora nowhere
generate 'a star' --lora folder
generate 'a star' --lora afile
generate 'a star' --lora empty.safetensors
generate 'a star' --model nobody/nothing
generate 'a star' --model folder
generate 'a star' --model afile
generate 'a star' --model badmodel
generate 'a star' --model deepmodel
generate 'a star' --model othermodel
generate 'a star' --model hollowmodel
generate 'a star' --model ../../../../nowhere
generate 'a star' --out afile
generate 'a star' --out afile/out
generate 'a star' --out star.png
generate 'a star' --out /dev/null
generate 'a star' --out /dev/full/out
generate 'a star' --out fifo.png
generate 'a star' --out dangling
generate 'a star' --out loop.png/out
generate 'a star' --model nobody/nothing --out new/deep/out
generate 'a star' --model folder --out new
realign ''
realign '?!'
realign 'a star' '...'
realign 'a star' --mode sideways
realign 'a star' --rounds 0 --mode renoise
realign 'a star' --steps 0
realign 'a star' --guidance -0.5
realign 'a star' --batch-size 0
realign 'a star' --dtype double
realign 'a star' --device cuda:x
realign 'a star' --captioner nowhere/x/y
realign 'a star' --captioner folder
realign 'a star' --captioner badmodel
realign 'a star' --captioner badcaptioner
realign 'a star' --model folder
realign 'a star' --model badmodel
realign 'a star' --model othermodel
realign 'a star' --lora folder
realign 'a star' --out afile
realign 'a star' --out afile/out
realign 'a star' --out /dev/zero
realign 'a star' --model nobody/nothing --out new/deep
realign 'a star' --prompts prompts.txt
realign 'a star' --shard 1/2
realign --prompts no.txt --out new
generate 'a star' --prompts prompts.txt
generate --prompts empty.txt --out new
generate --prompts folder --out new
generate --prompts fifo.txt --out new
generate --prompts binary.txt --out new
generate --prompts deep.json --out new
generate --prompts twocolumns.csv --out new
generate --prompts notes.parquet --out new
generate --prompts prompts.txt --shard 3/2 --out new
generate --prompts prompts.txt --out afile
score
score star.png
score no.png 'a star'
score folder 'a star'
score notes.png 'a star'
score empty.png 'a star'
score cut.png 'a star'
score fifo.png 'a star'
score loop.png 'a star'
score dangling 'a star'
score /dev/zero 'a star'
score /dev/null 'a star'
score afile/x.png 'a star'
score star.png ''
score star.png '?!'
score star.png 'a star' --pairs pairs.csv
score star.png 'a star' --video video.gif
score star.png 'a star' --frames 0:2
score star.png 'a star' --source-video video.gif
score star.png 'a star' --prompt-of-video 'a star'
score star.png 'a star' --captioner nowhere
score star.png 'a star' --captioner folder
score star.png 'a star' --captioner badcaptioner
score star.png 'a star' --captioner afile
score star.png 'a star' --judge nowhere
score star.png 'a star' --calibration nowhere
score star.png 'a star' --calibration afile
score star.png 'a star' --clip nowhere
score star.png 'a star' --clip folder
score star.png 'a star' --clip badmodel
score star.png 'a star' --device nowhere
score star.png 'a star' --out afile
score star.png 'a star' --out afile/report
score star.png 'a star' --out /dev/null
score star.png 'a star' --clip nowhere --out new/report
score --pairs pairs.csv
score --pairs pairs.csv --out s.txt
score --pairs pairs.csv --out s
score --pairs pairs.csv --out pairs.csv
score --pairs pairs.csv --out ./folder/../pairs.csv
score --pairs pairs.csv --out folder.csv
score --pairs pairs.csv --out fifo.csv
score --pairs pairs.csv --out afile/s.csv
score --pairs pairs.csv --out s.csv --device nowhere
score --pairs pairs.csv --out new/s.csv --captioner nowhere
score --pairs pairs.csv --out s.csv --frames 0:1
score --pairs no.csv --out s.csv
score --pairs prompts.txt --out s.csv
score --pairs folder --out s.csv
score --pairs folder.csv --out s.csv
score --pairs empty.csv --out s.csv
score --pairs nohead.csv --out s.csv
score --pairs latin.csv --out s.csv
score --pairs gone.csv --out new/s.csv
score --pairs fifo.csv --out s.csv
score --pairs loop.csv --out s.csv
score --pairs notes.parquet --out s.csv
score --pairs empty.parquet --out s.csv
score --pairs broken.jsonl --out s.csv
score --pairs deep.jsonl --out s.csv
score --video video.gif
score --video video.gif --prompt-of-video ''
score --video video.gif --prompt-of-video ' '
score --video no.mp4 --prompt-of-video 'a star'
score --video notes.mp4 --prompt-of-video 'a star'
score --video empty.mp4 --prompt-of-video 'a star'
score --video fifo.mp4 --prompt-of-video 'a star'
score --video star.png --prompt-of-video 'a star'
score --video folder --prompt-of-video 'a star'
score --video afile --prompt-of-video 'a star'
score --video video.gif --prompt-of-video 'a star' --frames 0:1
score --video video.gif --prompt-of-video 'a star' --source-video no.gif
score --video video.gif --prompt-of-video 'a star' --source-video video.gif --frames 1
score --video video.gif --prompt-of-video 'a star' --source-video video.gif --frames 2:1
score --video video.gif --prompt-of-video 'a star' --source-video video.gif --frames 9:
score --video video.gif --prompt-of-video 'a star' --source-video video.gif --frames -1:2
score --video video.gif --prompt-of-video 'a star' --source-video video.gif --frames 0:1
score --video video.gif --prompt-of-video 'a star' --out report
score --video video.gif --prompt-of-video 'a star' --captioner lab
score --video video.gif --prompt-of-video 'a star' --pairs pairs.csv
score --video video.gif --prompt-of-video 'a star' --clip nowhere
score --video video.gif --prompt-of-video 'a star' --device nowhere
edit no.gif --source 'a star' --target 'a key'
edit notes.mp4 --source 'a star' --target 'a key'
edit fifo.mp4 --source 'a star' --target 'a key'
edit folder --source 'a star' --target 'a key'
edit star.png --source 'a star' --target 'a key'
edit video.gif --source '' --target 'a key'
edit video.gif --source 'a star' --target ''
edit video.gif --source 'a star' --target ' moving left'
edit video.gif --source 'a star' --target 'a key' --out video.gif
edit video.gif --source 'a star' --target 'a key' --out new.avif
edit video.gif --source 'a star' --target 'a key' --out pictures
edit video.gif --source 'a star' --target 'a key' --out folder.gif
edit video.gif --source 'a star' --target 'a key' --out afile
edit video.gif --source 'a star' --target 'a key' --out afile/x.gif
edit video.gif --source 'a star' --target 'a key' --out .
edit video.gif --source 'a star' --target 'a key' --out fifo.mp4
edit video.gif --source 'a star' --target 'a key' --out /dev/null
edit video.gif --source 'a star' --target 'a key' --out new --tuned new/tuned
edit video.gif --source 'a star' --target 'a key' --out new.gif --tuned afile
edit video.gif --source 'a star' --target 'a key' --out new.gif --tuned damagedrun
edit video.gif --source 'a star' --target 'a key' --frames 3
edit video.gif --source 'a star' --target 'a key' --frames 2:1
edit video.gif --source 'a star' --target 'a key' --frames 99:
edit video.gif --source 'a star' --target 'a key' --frames a:b
edit video.gif --source 'a star' --target 'a key' --strength 2
edit video.gif --source 'a star' --target 'a key' --strength 0
edit video.gif --source 'a star' --target 'a key' --injection -1
edit video.gif --source 'a star' --target 'a key' --mask-blending 1.5
edit video.gif --source 'a star' --target 'a key' --modulation -1
edit video.gif --source 'a star' --target 'a key' --window 0
edit video.gif --source 'a star' --target 'a key' --steps 1
edit video.gif --source 'a star' --target 'a key' --learning-rate 0
edit video.gif --source 'a star' --target 'a key' --tune-steps 0 --tuned new
edit video.gif --source 'a star' --target 'a key' --tune-steps 0 --learning-rate 1
edit video.gif --source 'a star' --target 'a key' --tune-steps 0 --seed 0
edit video.gif --source 'a star' --target 'a key' --clip nowhere --out new/x.gif
edit video.gif --source 'a star' --target 'a key' --model folder --out new/x.gif
edit video.gif --source 'a star' --target 'a key' --model othermodel
edit video.gif --source 'a star' --target 'a key' --device nowhere
invert
invert no.png
invert notes.png
invert folder
invert fifo.png
invert star.png notes.png
invert star.png --folder pictures
invert star.png --pairs pairs.csv
invert star.png --out i.csv
invert star.png --adapt pairs.csv
invert star.png --shard 1/2
invert star.png --bank no.txt
invert star.png --bank empty.txt
invert star.png --bank one.txt
invert star.png --bank folder
invert star.png --bank fifo.txt
invert star.png --bank star.png
invert star.png --bank binary.txt
invert star.png --inverter nowhere
invert star.png --inverter folder
invert star.png --inverter badinverter
invert star.png --inverter afile
invert star.png --captioner nowhere
invert star.png --captioner badcaptioner
invert star.png --words-only --captioner lab
invert star.png --device nowhere
invert --folder pictures
invert --folder pictures --pairs pairs.csv --out i.csv
invert --folder nowhere --out i.csv
invert --folder afile --out i.csv
invert --folder folder --out i.csv
invert --folder unreadable --out new/i.csv
invert --folder pictures --out i.txt
invert --folder pictures --out mine.csv
invert --folder pictures --out damaged.csv
invert --folder pictures --out listed.csv
invert --folder pictures --out folder.csv
invert --folder pictures --out fifo.csv
invert --folder pictures --out afile/i.csv
invert --folder pictures --out i.csv --shard 3/2
invert --folder pictures --out i.csv --shard 0/2
invert --folder pictures --out i.csv --shard x
invert --folder pictures --out i.csv --adapt nowhere
invert --folder pictures --out i.csv --adapt gone.csv
invert --folder pictures --out new/i.csv --inverter nowhere
invert --folder pictures --out i.csv --words-only --captioner lab
invert --pairs gone.csv --out new/i.csv
invert --pairs pairs.csv --out pairs.csv
invert --pairs nowhere --out i.csv
invert --pairs empty.csv --out i.csv
invert --pairs folder --out i.csv
invert --pairs fifo.csv --out i.csv
invert --pairs notes.parquet --out i.csv
studio --port 0 --host 0.0.0.0 --folder new
studio --port 0 --host '' --folder new
studio --port 0 --host .. --share-token abcdefghijklmnop --folder new
studio --port 0 --host 'a b' --share-token abcdefghijklmnop --folder new
studio --port 65536
studio --port 0 --share-token short --folder new
studio --port 0 --share-token 'abcdefghijklmnop; path=/' --folder new
studio --port 0 --folder afile
studio --port 0 --folder afile/studio
studio --port 0 --folder /dev/null
studio --port 0 --folder dangling
studio --port 0 --folder badstudio
studio --port 0 --folder oldstudio
studio --port 0 --folder hollowstudio
studio --port 0 --show nowhere --folder new
studio --port 0 --show folder --folder new
studio --port 0 --show afile --folder new
studio --port 0 --inverter nowhere --folder new
studio --port 0 --device toaster --folder new
studio --port 0 --dtype int8 --folder new
train lab unet
train lab ''
train lab denoiser --out new
train lab vae --steps 0
train lab vae --device toaster
train lab vae --out afile
train lab vae --out afile/new
train lab vae --start folder --out new
train lab vae --continue --out new
train lab clip --start nowhere --out new
train lab clip --start folder --out folder
train lab clip --start folder --continue --out new
train reward --prompts no.txt
train reward --prompts folder
train reward --prompts empty.txt
train reward --prompts one.txt --out new
train reward --prompts binary.txt
train reward --prompts fifo.txt
train reward --prompts star.png
train reward --prompts deep.json
train reward --prompts digits.json
train reward --prompts twocolumns.csv
train reward --prompts says-nothing.txt --out new
train reward --prompts prompts.txt --reward beauty
train reward --prompts prompts.txt --reward clip=much
train reward --prompts prompts.txt --reward clip=nan
train reward --prompts prompts.txt --reward clip=0
train reward --prompts prompts.txt --reward clip --reward clip=2
train reward --prompts prompts.txt --reward clip --held-out clip
train reward --prompts prompts.txt --reward caption-clip --out new
train reward --prompts prompts.txt --held-out beauty
train reward --prompts prompts.txt --held-out inversion --model folder
train reward --prompts prompts.txt --held-out none --clip x
train reward --prompts prompts.txt --reward clip --held-out none --captioner x
train reward --prompts prompts.txt --strategy ppo
train reward --prompts prompts.txt --strategy raft --stop-from 0.5
train reward --prompts prompts.txt --strategy grpo --stop-until 0.5
train reward --prompts prompts.txt --strategy sft --reward-weight 0.5
train reward --prompts prompts.txt --strategy sft --pretrain-weight 0 --kl-weight 0
train reward --prompts prompts.txt --pretrain-weight 0 --kl-weight 0 --pairs pairs.csv
train reward --prompts prompts.txt --steps 0
train reward --prompts prompts.txt --rank 0
train reward --prompts prompts.txt --accumulate 3
train reward --prompts prompts.txt --learning-rate 0
train reward --prompts prompts.txt --learning-rate -1
train reward --prompts prompts.txt --stop-from 1
train reward --prompts prompts.txt --stop-from 0.9 --stop-until 0.5
train reward --prompts prompts.txt --pairs nowhere --out new
train reward --prompts prompts.txt --pairs gone.csv --out new
train reward --prompts prompts.txt --pairs folder --out new
train reward --prompts prompts.txt --captioner nowhere --out new
train reward --prompts prompts.txt --model folder --out new
train reward --prompts prompts.txt --model othermodel --out new
train reward --prompts prompts.txt --device nowhere
train reward --prompts prompts.txt --out afile
train reward --prompts prompts.txt --out run
train reward --prompts prompts.txt --rollout-workers 2
train reward --prompts prompts.txt --strategy sft --rollout-workers 2
train reward --prompts prompts.txt --strategy nft --address auto
train reward --prompts prompts.txt --strategy nft --gpus-per-worker 0
train reward --prompts prompts.txt --strategy nft --rollout-workers 0
train reward --prompts prompts.txt --strategy nft --rollout-workers 1 --gpus-per-worker -1
train inverter --pairs nowhere --out new
train inverter --pairs folder --out new
train inverter --pairs pairs.csv --out new
train inverter --pairs gone.csv --out new
train inverter --pairs fifo.csv --out new
train inverter --pairs pairs.csv --kind gan
train inverter --pairs pairs.csv --kind vit --weight 1
train inverter --pairs pairs.csv --kind vit --kind clip --weight 1
train inverter --pairs pairs.csv --kind vit --kind clip --weight 0 --weight 0
train inverter --pairs pairs.csv --kind vit --kind clip --weight -1 --weight 1
train inverter --pairs pairs.csv --captioner x
train inverter --pairs pairs.csv --no-caption
train inverter --pairs pairs.csv --kind unet --no-caption --captioner x
train inverter --pairs pairs.csv --curriculum random-ish
train inverter --pairs pairs.csv --vocabulary-weight 0 --vocabulary-size 10
train inverter --pairs pairs.csv --vocabulary-weight -1
train inverter --pairs pairs.csv --similar 2
train inverter --pairs pairs.csv --limit 0
train inverter --pairs pairs.csv --out-of-domain nowhere --out new
train inverter --pairs pairs.csv --out afile
train inverter --pairs pairs.csv --device nowhere
train context --pairs nowhere --out new
train context --pairs folder --out new
train context --pairs gone.csv --out new
train context --pairs pairs.csv --scenes 5
train context --scenes 0
train context --denoiser half
train context --denoiser frozen --rank 4
train context --denoiser full --rank 4
train context --fresh --out new
train context --text-only --pixels
train context --text-only --estimated-share 0.5
train context --gain 0 --estimated-share 0.5
train context --clip x
train context --pixels --clip nowhere --scenes 2 --out new
train context --shift cubic
train context --loss hinge
train context --share 0
train context --estimated-share 2
train context --learning-rate 0
train context --model folder --out new
train context --model othermodel --out new
train context --device nowhere
train context --out afile
train context --out run
pairs make --out afile
pairs make --out afile/made
pairs make --out made --count 0
pairs make --out made --prompts prompts.txt --count 5
pairs make --out made --prompts no.txt
pairs make --out made --prompts empty.txt
pairs make --out made --prompts folder
pairs make --out made --prompts fifo.txt
pairs make --out made --prompts prompts.pdf
pairs make --out made --prompts deep.json
pairs make --out made --prompts binary.txt
pairs make --out made --shard 2/1
pairs make --out made --shard 1
pairs make --out made --steps 0
pairs make --out made --guidance -1
pairs make --out made --dtype int4
pairs make --out made --device nowhere
pairs make --out made --count 1 --model folder
pairs make --out made --count 1 --model nobody/nothing
pairs make --out made --count 1 --lora folder
pairs make --out made/deep --count 1 --model badmodel
pairs videos --out afile
pairs videos --out afile/made
pairs videos --out /dev/null
pairs videos --out made --count 0
pairs videos --out made --frames 1
bench scenes --out afile
bench scenes --out table --seeds 0
bench scenes --out table --seeds 5
bench scenes --out table --quick --seeds 3
bench scenes --out table --shard 2/1
bench scenes --out table --model folder
bench scenes --out table --device nowhere
bench rewards --out table --minutes 0
bench rewards --out table --minutes -1 --so-far
bench rewards --out table --quick --so-far
bench rewards --out table --so-far --shard 1/2
bench sensitivity --out table --shard 1/2
bench sensitivity --out table --model folder
bench hacking --out table --minutes 3
bench hacking --out table --so-far
bench hacking --out table --model folder
bench rewards --out table --model folder
bench rewards --out afile/table --so-far
bench invert --out table --kind gan
bench invert --out table --seeds 0
bench transplant --out table
bench transplant --out table --kind vit
bench transplant --out table --inverter folder
bench kernel --out table --device cpu
bench kernel --out table --model folder
bench kernel --out table --quick --large
bench invert --out table --kernel
bench invert --out table --inverter x
bench invert --out table --only-pairs --steps 5
bench invert --out table --only-pairs --kind vit
bench invert-speed --out table --shard 1/2
bench invert-speed --out table --inverter folder
bench invert-speed --out table --device nowhere
bench invert --out table --model folder
bench invert --out table --shard 0/0
bench invert --out afile
bench context --out table --seeds 0
bench context --out table --quick --so-far
bench context --out table --so-far --shard 1/2
bench context --out table --cost
bench context-cost --out table --seeds 2
bench context --out table --model folder
bench video --out table --edits 0
bench video --out table --seeds 0
bench video --out table --quick --so-far
bench video --out table --so-far --shard 1/2
bench video --out table --memory
bench video-memory --out table --edits 3
bench video-memory --out table --device cpu
bench video --out table --model folder
bench speed-tuning --out table --device cpu
bench speed-large --out table --quick
bench speed-large --out table --device cpu
bench speed-large --out table --device nowhere
bench speed --out table --device nowhere
bench speed --out afile
"""


def make_files(folder: Path) -> None:
    """The files that the command lines name: a good one of each kind, and ones that are none."""
    folder.mkdir(parents=True, exist_ok=True)
    star = Image.new("RGB", (64, 64), "white")
    star.paste("red", (20, 20, 44, 44))
    for name in (
        "folder",
        "folder.csv",
        "folder.gif",
        "pictures",
        "unreadable",
        "run/checkpoints/step-1",
        "damagedrun/checkpoints/step-1",
    ):
        (folder / name).mkdir(parents=True)
    for name in ("star.png", "pictures/0.png", "pictures/1.png"):
        star.save(folder / name)
    star.save(
        folder / "video.gif",
        save_all=True,
        append_images=[Image.new("RGB", (64, 64), c) for c in ("red", "blue")],
        duration=100,
    )
    (folder / "cut.png").write_bytes((folder / "star.png").read_bytes()[:80])
    texts = {
        "afile": "no folder\n",
        "notes.png": "no picture",
        "notes.mp4": "no video",
        "notes.parquet": "no table",
        "empty.png": "",
        "empty.csv": "",
        "empty.txt": "\n \n",
        "empty.mp4": "",
        "empty.parquet": "",
        "empty.safetensors": "",
        "unreadable/0.png": "no picture",
        "unreadable/1.jpg": "",
        "pairs.csv": "image,prompt\nstar.png,a red star\n",
        "gone.csv": "image,prompt\nno.png,a red star\nnotes.png,a key\n",
        "nohead.csv": "star.png,a red star\n",
        "broken.jsonl": '{"image": "star.png"\nnothing\n',
        "deep.jsonl": "[" * DEEP + "\n",
        "mine.csv": "a table,of somebody else\n",
        "prompts.txt": "a red star\na blue key\ntwo green fish\na pink crown\n",
        "one.txt": "a red star\n",
        "questions.csv": "prompt,question,answer\na red star,Is there a star?,yes\n",
        "records.jsonl": json.dumps({"tag": "single_object", "prompt": "a cat", "include": [{"class": "cat"}]}) + "\n",
        "badrun/run.json": "{",
        "oldrun/run.json": json.dumps({"schema": "accord.run/0"}),
        "lostrun/rows.jsonl": "",
        "badstudio/studio.sqlite": "no database " * 100,
        "hollowstudio/uploads": "no folder",
        "prompts.pdf": "%PDF",
        "says-nothing.txt": "?!\n...\n",
        "long.txt": "a red star\na blue key\n" + LONG + "\n",
        "deep.json": "[" * DEEP,
        "digits.json": "[" + "9" * 5000 + "]",
        "twocolumns.csv": "a,b\n1,2\n",
        "damaged.csv": "image\n",
        "damaged.made.json": "{",
        "listed.csv": "image\n",
        "listed.made.json": "[1]",
        "run/config.json": "{}",
        "damagedrun/config.json": "{",
        "badmodel/model_index.json": "{",
        "deepmodel/model_index.json": "[" * DEEP,
        "othermodel/model_index.json": json.dumps({"_class_name": "AudioLDMPipeline"}),
        "badinverter/config.json": "{}",
        "hollowmodel/model_index.json": json.dumps(
            {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
        ),
        "badcaptioner/config.json": json.dumps({"model_type": "bert"}),
        "badcontext/config.json": "{",
        "badcontext/relation/config.json": "{",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf8")
    (folder / "latin.csv").write_bytes("image,prompt\nstar.png,a st\xe9r\n".encode("latin-1"))
    (folder / "binary.txt").write_bytes(bytes(range(128, 256)))
    (folder / "oldstudio").mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / "oldstudio" / "studio.sqlite")) as database:
        database.execute("pragma user_version = 99")
    for name in ("fifo.png", "fifo.csv", "fifo.txt", "fifo.mp4"):
        os.mkfifo(folder / name)
    for name, target in (("loop.png", "loop.png"), ("loop.csv", "loop.csv"), ("dangling", "nowhere/at/all")):
        (folder / name).symlink_to(target)
