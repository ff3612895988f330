"""llamac's speed beside that of other programs on the same weights, in one run.

Usage: run.py LLAMAC WORK [--peers NAMES] [--shapes NAMES] [--formats NAMES] [--rounds N] [--threads N]
              [--before COMMAND] [--write FILE]

Installs peers and makes models under WORK (60 GB with everything; torch, which is 6 of them, only if it is named), each
when it is first asked for. In each round llamac and its peer run once, in turns, each in a process of its own: a prompt
of 512 tokens, and 64 new tokens behind 0 and behind 2048 others, logits of the last token only. A round's first is the
last round's second, so that nobody always has the better place. All samples are in WORK/results.json; a contest that is
run again replaces its samples there, so that a table can be measured in parts. What could not be installed or run is
there with its reason. --write puts the tables of all that is there into a file, between its marks.

On a shared machine, --before "chrt -f 50" runs each measurement with precedence over other processes.
"""

import argparse
import datetime
import json
import shlex
import subprocess
from pathlib import Path

import machine
import tables
from installed import Installed, NotMeasured
from models import SHAPES, Models
from programs import PEERS, TESTS, contest

FORMATS = ["f32", "bf16", "q8", "q4"]
# A run is ended after so many seconds.
LIMIT = 600


def parse():
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda known: lambda text: [known[known.index(name)] for name in text.split(",")]
    parser.add_argument("llamac", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--peers", type=names(list(PEERS)), default=[name for name in PEERS if name != "torch"])
    parser.add_argument("--shapes", type=names(list(SHAPES)), default=list(SHAPES))
    parser.add_argument("--formats", type=names(FORMATS), default=FORMATS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--before", type=shlex.split, default=[])
    parser.add_argument("--write", type=Path)
    return parser.parse_args()


def once(contestant, before, log):
    """Runs a contestant; its speeds."""
    speeds = {}
    for command in contestant.commands:
        command = [*before, *(str(part) for part in command)]
        try:
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            raise NotMeasured(f"not done after {LIMIT} s") from None
        if result.returncode != 0:
            raise NotMeasured(f"ended with {result.returncode}: see {Path(log.name).name}")
        speeds.update(contestant.read(result.stdout))
    return speeds


def compete(contestants, rounds, before, log):
    """Name → its samples in the order of the rounds; and why others have none."""
    runs, refused, order = {one.name: [] for one in contestants}, {}, list(contestants)
    for number in range(rounds):
        for contestant in list(order):
            try:
                runs[contestant.name].append(once(contestant, before, log))
            except NotMeasured as reason:
                refused[contestant.name] = str(reason)
                order.remove(contestant)
                del runs[contestant.name]
        order = order[1:] + order[:1]
        print(f"  round {number + 1} of {rounds}", flush=True)
    return runs, refused


def measured(args, models, peer, shape, weights, log):
    """The entry of a contest in the results; none if there is nothing to compare."""
    entry = {"peer": peer, "shape": shape, "weights": weights}
    try:
        contestants = contest(models, peer, shape, weights, args.threads)
    except NotMeasured as reason:
        return {**entry, "runs": {}, "refused": {peer: str(reason)}}
    if not contestants:
        return None
    print(f"{peer}, {shape}, {weights}", flush=True)
    runs, refused = compete(contestants, args.rounds, args.before, log)
    for name, samples in runs.items():
        medians = tables.medians(samples)
        print(f"  {name:28}" + "".join(f"{test:>9} {medians[test]:8.1f}" for test in TESTS), flush=True)
    bytes = {one.name: one.bytes for one in contestants}
    when = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    settings = {"date": when, "threads": args.threads, "before": shlex.join(args.before), "machine": machine.facts()}
    return {**entry, **settings, "bytes": bytes, "runs": runs, "refused": refused}


def main():
    """Measures what the arguments name, and writes the results after each contest."""
    args = parse()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    models = Models(Installed(args.work), args.llamac.resolve())
    path = args.work / "results.json"
    results = json.loads(path.read_text()) if path.exists() else []
    with (args.work / "runs.log").open("a") as log:
        for shape in args.shapes:
            for peer in args.peers:
                for weights in args.formats:
                    entry = measured(args, models, peer, shape, weights, log)
                    if entry is None:
                        continue
                    key = (peer, shape, weights)
                    results = [old for old in results if (old["peer"], old["shape"], old["weights"]) != key]
                    results.append(entry)
                    path.write_text(json.dumps(results, indent=1))
    if args.write:
        tables.write(args.write, "speeds", tables.speeds(results))


if __name__ == "__main__":
    main()
