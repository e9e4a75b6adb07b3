"""What comes back from certifying: counts for each question, verdicts for each image."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from patchcert import results
from patchcert.patch import Patch
from patchcert.patch_sizes import Area

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Answer:
    """What was found for one question about N images: which predictions no such patch can change.

    Attributes:
        patch: that the adversary may lay anywhere; an area is every rectangle of it.
        certificate: how it was certified: "margin", "exact", "masking" or "intervals".
        question: all that was asked, as `--output` has it.
        verdicts: tensors (N,) on the CPU by name, as `--per_image` has them; `predicted` and `certified` always.
        labels: (N,) int64, on the CPU; None where they were not given.
    """

    patch: Patch | Area
    certificate: str
    question: dict[str, object]
    verdicts: dict[str, Tensor] = field(repr=False)
    labels: Tensor | None = field(repr=False)

    @classmethod
    def of(
        cls, patch: Patch | Area, question: dict[str, object], verdicts: dict[str, Tensor], labels: Tensor | None
    ) -> "Answer":
        """The answer that `verdicts` on images with these `labels` give to a question about `patch`."""
        on_cpu = {name: tensor.cpu() for name, tensor in verdicts.items()}
        return cls(patch, str(question["certificate"]), question, on_cpu, labels)

    @property
    def counts(self) -> results.Counts:
        """How many images are classified correctly, how many answers are certified, right or wrong; of a defence with
        alarms, `results.AlarmCounts`.

        Raises:
            ValueError: there are no labels, so nobody knows what is right.
        """
        if self.labels is None:
            raise ValueError("without labels there are predictions and certificates, but no counts or accuracies")
        kind = results.AlarmCounts if self.question.get("goal") == "alert" else results.Counts
        return kind.of(self.predicted, self.certified, self.labels)

    @property
    def predicted(self) -> Tensor:
        """(N,) int64: the classes; −1 is an alarm."""
        return self.verdicts["predicted"]

    @property
    def certified(self) -> Tensor:
        """(N,) bool: which of these predictions no such patch can change, be they right or wrong."""
        return self.verdicts["certified"]

    @property
    def clean_accuracy(self) -> float:
        """Share of the images that are classified correctly; ValueError without labels."""
        return self.counts.correct / self.counts.total

    @property
    def certified_accuracy(self) -> float:
        """Share of the images that are classified correctly whatever such a patch shows; ValueError without labels."""
        return self.counts.certified_correct / self.counts.total

    def __str__(self) -> str:
        if self.labels is None:
            shares = f"{int(self.certified.sum())} of {len(self.certified)} answers certified, right or wrong"
        else:
            shares = f"{self.clean_accuracy:.2%} clean, {self.certified_accuracy:.2%} certified"
        return f"patch {self.patch}, {self.certificate}{self._alarms()}: {shares}"

    def _alarms(self) -> str:
        """By which rule alarms are raised, and how many there are, if any may be."""
        if self.question.get("goal") != "alert":
            return ""
        confidence, count = self.question["confidence"], int((self.predicted < 0).sum())
        rule = "strict" if confidence is None else f"τ = {confidence}"
        two = ", two patches" if self.question["patches"] == 2 else ""
        return f", alarms ({rule}{two}; {count} of {len(self.predicted)} raise one)"


@dataclass(frozen=True)
class Certification:
    """The answers to all questions about N images; as text, one line for each.

    Attributes:
        answers: one for each patch and certificate, in the order in which they were asked for.
        labels: (N,) int64, on the CPU; None where they were not given.
        seconds: that it took.
        config: what was certified, and how.
        arithmetic: what the numbers were computed with, and certificates hold for: precision, engine, processors.
    """

    answers: tuple[Answer, ...]
    labels: Tensor | None = field(repr=False)
    seconds: float
    config: dict[str, object]
    arithmetic: dict[str, object]

    @property
    def clean_accuracy(self) -> tuple[float, ...]:
        """That of each answer; ValueError without labels."""
        return tuple(answer.clean_accuracy for answer in self.answers)

    @property
    def certified_accuracy(self) -> tuple[float, ...]:
        """That of each answer; ValueError without labels."""
        return tuple(answer.certified_accuracy for answer in self.answers)

    @property
    def passes(self) -> Tensor | None:
        """(N,) int64: how often the network was asked about each image; None where it is asked about every copy.

        All answers share them.
        """
        return self.answers[0].verdicts.get("passes")

    def to_dict(self) -> dict[str, object]:
        """What scripts write with `--output`, in JSON's types; ValueError without labels."""
        answers: list[tuple[dict[str, object], results.Counts | results.AttackCounts]]
        answers = [(answer.question, answer.counts) for answer in self.answers]
        passes = None if self.passes is None else results.Passes(len(self.passes), int(self.passes.sum()))
        return results.run_record(answers, self.seconds, self.config, self.arithmetic, passes)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per image and question, as scripts write with `--per_image`, less labels that are not known.

        It needs pandas. Of counts alone, `pandas.DataFrame(result.to_dict()["results"])` makes a table.
        """
        import pandas

        columns = {"index": range(len(self.answers[0].predicted))}
        known = {} if self.labels is None else {"label": self.labels.numpy()}
        tables = [
            pandas.DataFrame(answer.question | columns | known | {n: v.numpy() for n, v in answer.verdicts.items()})
            for answer in self.answers
        ]
        return pandas.concat(tables, ignore_index=True)

    def __str__(self) -> str:
        return "\n".join(map(str, self.answers))
