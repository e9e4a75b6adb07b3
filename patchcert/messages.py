"""What scripts print: results, and what happens to a run."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from patchcert.errors import MOST_OF_RIGHT, one_line
from patchcert.progress import say
from patchcert.results import AlarmCounts, AttackCounts, Counts, Remarks

NUMBERED = 5
"""Classes of which a note says which number they have."""

COUNTED = ("correct", "certified_correct", "certified_wrong")


def print_answers(
    about: str, answers: list[tuple[dict, Counts | AttackCounts]], seconds: float, remarks: Remarks | None = None
) -> None:
    """Print (question, counts) pairs: a block of lines for one, a table for several, less columns of one value.

    Args:
        about: a line above them that says what was asked of which images.
    """
    print(about)
    if len(answers) == 1:
        counts = answers[0][1]
        print(counts)
        if isinstance(counts, AttackCounts):
            print(counts.relation())
    else:
        varying = [name for name in answers[0][0] if len({question[name] for question, _ in answers}) > 1]
        with_alarms = any(isinstance(counts, AlarmCounts) for _, counts in answers)
        counted = [*COUNTED, "false_alarms"] if with_alarms else COUNTED
        print("  ".join(f"{name:>18s}" for name in [*varying, *counted]))
        for question, counts in answers:
            asked = ["-" if question[name] is None else str(question[name]) for name in varying]
            shares = [counts.share(name) if hasattr(counts, name) else "-" for name in counted]
            print("  ".join(f"{cell:>18s}" for cell in [*asked, *shares]))
    print(f"{answers[0][1].total} images in {seconds:.1f} s")
    for line in remarks.lines() if remarks else ():
        print(line)


def print_network(about: dict) -> None:
    """Print where a network comes from, what it was filled with, and how its images are made."""
    height, width = about["size"]
    numbers = {name: ", ".join(f"{value:.4g}" for value in about[name]) for name in ("mean", "std", "hidden")}
    parts = [
        " ".join(str(about[name]) for name in ("of", "name") if name in about),
        " ".join(["weights", str(about["weights"]), *([f"(its {about['entry']})"] if "entry" in about else [])]),
        f"images of {height} × {width}" + (f" ({about['geometry']})" if "geometry" in about else ""),
        *([] if about["exact"] else ["rounded to 256 levels"]),
        *(["clamped to [0, 1]"] if "clamped" in about else []),
        f"mean {numbers['mean']}, std {numbers['std']}" + (f", {about['channels']}" if "channels" in about else ""),
        f"hidden pixels {numbers['hidden']}" + (", tokens of hidden patches dropped" if "tokens" in about else ""),
    ]
    print("; ".join(parts))


def print_not_folded(why: str) -> None:
    """Print, beside the results, why a network is asked as it is, which takes longer."""
    print(f"note: normalisations are not folded into convolutions: {one_line(why)}", file=sys.stderr)


def print_side_by_side(outputs: dict[str, Path]) -> None:
    """Print accuracies by patch size from the files that `--output` wrote, by the name of each defence.

    The files answer one question for each of the same patch sizes.
    """
    records = {name: json.loads(path.read_text())["results"] for name, path in outputs.items()}
    columns = [f"{name}: {what}" for name in records for what in ("clean", "certified")]
    print("  ".join(f"{cell:>18s}" for cell in ["patch", *columns]))
    for answers in zip(*records.values(), strict=True):
        shares = [answer[f"{what}_accuracy"] for answer in answers for what in ("clean", "certified")]
        cells = [str(answers[0]["size_to_certify"]), *(f"{share:.2%}" for share in shares)]
        print("  ".join(f"{cell:>18s}" for cell in cells))


def print_batch_size(found: int) -> None:
    """Print what `--batch_size auto` took."""
    say(f"--batch_size {found}")


def print_epoch(row: dict, end_epoch: int, measured: str) -> None:
    """Print one row of the training log; `measured` is what the accuracy on test images is called."""
    say(
        f"epoch {row['epoch']}/{end_epoch}  loss {row['loss']:.4f}  training {row['train_accuracy']:.2%}"
        f"  {measured} {measured_in(row):.2%}  {row['seconds']:.1f} s"
    )


def measured_in(row: dict) -> float:
    """The accuracy in a row of the training log that is not of training images."""
    return row["held_out_accuracy"] if "held_out_accuracy" in row else row["test_accuracy"]


def print_interval_epoch(model_id: str, attack_type: str, row: dict) -> None:
    """Print one row of the log of training with interval bounds; robust is measured at the places of `attack_type`."""
    say(
        f"{model_id} epoch {row['epoch']}  eps {row['epsilon']:.4f}  lr {row['lr']:.1e}  loss {row['loss']:.4f}"
        f"  test error: robust ({attack_type}) {row['robust_err']:.2%}, clean {row['clean_err']:.2%}"
        f"  {row['train_seconds']:.1f} s"
    )


def print_models(about: str, rows: list[dict], summary: dict[str, dict[str, float]]) -> None:
    """Print what was asked of which images, each model's errors, and how they vary over the models."""
    print(about)
    for row in rows:
        found = ", ".join(f"{error.replace('_', ' ')} {row[error]:.2%}" for error in summary)
        taken = f"certificates lost to rounding: {row['within_rounding']}"
        print(f"{row['model_id']}: {found}, {taken}  ({row['total']} images in {row['seconds']:.1f} s)")
    for error, values in summary.items():
        print(f"{error.replace('_', ' '):15s}  " + "  ".join(f"{name} {value:.2%}" for name, value in values.items()))


def print_training(path: Path, state: dict, measured: str) -> None:
    """Print where a finished run lies and what was `measured` of it at the end."""
    print(f"{path}: {measured} {state['acc']:.2f} % after epoch {state['epoch']}")


def print_finished(path: Path, state: dict, measured: str) -> None:
    """Print that there is nothing to do: the run that would write `path` is finished."""
    reached = f"{measured} {state['acc']:.2f} % after epoch {state['epoch']}"
    print(f"{path} is finished: {reached}; --overwrite trains anew")


def print_unlocked(path: Path) -> None:
    """Print that another run at once, which writes `path` too, would go unnoticed."""
    print(f"note: {path}: its file system has no locks; see that no other process trains it", file=sys.stderr)


def print_note(text: str) -> None:
    """Print, beside the results, what a person should know besides them."""
    print(f"note: {one_line(text, MOST_OF_RIGHT)}", file=sys.stderr)


def print_going_on(epoch: int, end_epoch: int, source: Path | None, position: dict | None) -> None:
    """Print that training goes on with `epoch`, or inside of it, from the file `source`, unless `--resume` named it."""
    inside = f" after step {position['step']} of {position['of']}" if position else ""
    say(f"continuing with epoch {epoch} of {end_epoch}{inside}" + (f" from {source}" if source else ""))


def print_going_on_with(what: str, source: Path) -> None:
    """Print that a run takes its beginning from the file `source` and goes on with a piece of work."""
    print(f"continuing with {what} from {source}", flush=True)


def print_other_processor(path: Path, others: list[str], here: str) -> None:
    """Print, beside the results, that what a run goes on with was computed on `others`."""
    said = f"{path} was computed by {', '.join(others)}, and {here} continues"
    print(f"note: {said}: a certificate holds for the processor that computed it", file=sys.stderr)


def print_emulated(instead: str) -> None:
    """Print, beside the results, that this processor has no bfloat16, and what to say `instead` of --amp."""
    said = f"this processor has no instructions for bfloat16 (--amp), so {instead} is faster"
    print(f"note: {said}", file=sys.stderr)


def print_not_compared(model: str) -> None:
    """Print, beside the results, what is not known of the program with which a run goes on."""
    said = "continues with the same modules; whether they read the same files, and find the same packages, is not known"
    print(f"note: {one_line(model)} {said}", file=sys.stderr)


def print_other_modules(path: Path, names: list[str]) -> None:
    """Print, beside the results, by which modules a training goes on that are not those by which it began."""
    shown = ", ".join(map(one_line, names[:NUMBERED])) + (" …" if len(names) > NUMBERED else "")
    both = "the weights will come from both versions"
    print(f"note: {path} was trained by other code, in {shown}: {both}", file=sys.stderr)


def print_not_kept(path: Path, reason: str) -> None:
    """Print, beside the results, that what a run has done is not in `path`."""
    print(f"note: {path} cannot be written: {reason}; an interrupted run would lose what it has done", file=sys.stderr)


def print_finished_model(path: Path, epoch: int) -> None:
    """Print that there is nothing to do: the run with interval bounds that writes `path` is finished."""
    print(f"{path} is finished after epoch {epoch}; --overwrite trains anew", flush=True)


def print_networks(states: dict[Path, dict | None], attack_type: str, schedule_end: int) -> None:
    """Print where a model's last and best state lie and what is known of them; None where there is none."""
    for path, state in states.items():
        if state is None:
            print(f"{path}: there is none, ε grows until epoch {schedule_end}")
        else:
            errors = f"robust ({attack_type}) {state['robust_err']:.2%}, clean {state['clean_err']:.2%}"
            print(f"{path}: epoch {state['epoch']}, test error: {errors}")


def print_other_kind(name: str, trained: str, run: str) -> None:
    """Print, beside the results, that a network is not run as what it was trained as."""
    said = f"{one_line(name)} was trained with {one_line(trained)}; this run has {one_line(run)}"
    print(f"note: {said}", file=sys.stderr)


def print_in_both(root: Path, count: int) -> None:
    """Print, beside the results, how many images in `root` are tested on that may have been trained on."""
    print(f"warning: {one_line(root)}: {count} images in test/ are in train/ too, byte for byte", file=sys.stderr)


def print_numbering(root: Path, names: list[str]) -> None:
    """Print, beside the results, that the classes in `root` are numbered by their names as text, 10 before 2."""
    said = f"classes are numbered in the order of their folders' names as text: {_numbers(names)} …"
    print(f"note: {one_line(root)}: {said}", file=sys.stderr)


def print_labels(root: Path, labels: Sequence[str]) -> None:
    """Print, beside the results, that classes in `root` have the numbers that the network gives their names."""
    more = " …" if len(labels) > NUMBERED else ""
    said = f"classes have the numbers that the network gives their names: {_numbers(labels)}{more}"
    print(f"note: {one_line(root)}: {said}", file=sys.stderr)


def _numbers(names: Sequence[str]) -> str:
    """The first of these names by their numbers."""
    return ", ".join(f"{number} is {one_line(name)}" for number, name in enumerate(names[:NUMBERED]))


def print_few_classes(count: int, names: list[str], there: int, can_skip: bool) -> None:
    """Print, beside the results, that `count` images are only of the classes `names`, of the number that there are."""
    named = ", ".join(map(one_line, names[:NUMBERED])) + (" …" if len(names) > NUMBERED else "")
    ways = "--per_class N takes N of each" + (", --skip N every N-th image" if can_skip else "")
    print(f"note: the {count} images are of only {len(names)} of {there} classes, {named}; {ways}", file=sys.stderr)


def print_report(page: Path) -> None:
    """Print where the page of a report lies."""
    print(f"report: {page}")


def print_pictures(folder: Path, count: int, still_wrong: int) -> None:
    """Print how many flipped images were saved, and on how many rounding to a PNG's 256 values undid the attack."""
    print(f"{folder}: {count} flipped images; rounded to 8 bits, {still_wrong} of them are still classified wrongly")
