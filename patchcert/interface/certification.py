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
    """The answer to one question about N images: which predictions no such patch can change.

    Attributes:
        patch: the patch, anywhere in the image. An `Area` stands for all of its rectangles.
        certificate: the kind of certificate: "margin", "exact", "masking" or "intervals".
        question: everything that was asked, as in the JSON of `--output`.
        verdicts: tensors (N,) on the CPU by name, as in the rows of `--per_image`; always `predicted` and `certified`.
            With hidden windows also `dissenting`, (N, M) bool, the windows that hint at where an image was changed.
        labels: (N,) int64, on the CPU; None if there were none.
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
        """How many images are classified correctly, and how many right and wrong answers are certified.

        For a defence with alarms these are `results.AlarmCounts`.

        Raises:
            ValueError: there are no labels.
        """
        if self.labels is None:
            raise ValueError("without labels there are predictions and certificates, but no counts or accuracies")
        kind = results.AlarmCounts if self.question.get("goal") == "alert" else results.Counts
        return kind.of(self.predicted, self.certified, self.labels)

    @property
    def predicted(self) -> Tensor:
        """The predicted classes, (N,) int64; −1 is an alarm."""
        return self.verdicts["predicted"]

    @property
    def certified(self) -> Tensor:
        """Which of these predictions no such patch can change, (N,) bool. They may be right or wrong."""
        return self.verdicts["certified"]

    @property
    def clean_accuracy(self) -> float:
        """The share of the images that are classified correctly; ValueError without labels."""
        return self.counts.correct / self.counts.total

    @property
    def certified_accuracy(self) -> float:
        """The share of the images that are classified correctly and have a certificate; ValueError without labels."""
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
    """The answers to all questions about N images. `str()` gives one line for each.

    Attributes:
        answers: one for each patch and certificate, in the order in which you asked for them.
        labels: (N,) int64, on the CPU; None if there were none.
        seconds: how long it took.
        config: what was certified, and how.
        arithmetic: precision, engine and processors that computed the certificates. The certificates hold for these.
    """

    answers: tuple[Answer, ...]
    labels: Tensor | None = field(repr=False)
    seconds: float
    config: dict[str, object]
    arithmetic: dict[str, object]

    @property
    def clean_accuracy(self) -> tuple[float, ...]:
        """The clean accuracy of each answer; ValueError without labels."""
        return tuple(answer.clean_accuracy for answer in self.answers)

    @property
    def certified_accuracy(self) -> tuple[float, ...]:
        """The certified accuracy of each answer; ValueError without labels."""
        return tuple(answer.certified_accuracy for answer in self.answers)

    @property
    def passes(self) -> Tensor | None:
        """How many passes of the network each image took, (N,) int64; None if every copy is always computed.

        All answers share them.
        """
        return self.answers[0].verdicts.get("passes")

    def to_dict(self) -> dict[str, object]:
        """The content of the JSON file that scripts write with `--output`; ValueError without labels."""
        answers: list[tuple[dict[str, object], results.Counts | results.AttackCounts]]
        answers = [(answer.question, answer.counts) for answer in self.answers]
        passes = None if self.passes is None else results.Passes(len(self.passes), int(self.passes.sum()))
        return results.run_record(answers, self.seconds, self.config, self.arithmetic, passes)

    def to_dataframe(self) -> "pandas.DataFrame":
        """A table with one row for each image and question, as in the CSV file that scripts write with `--per_image`.

        Without labels the table has no column for them. This needs pandas. For a table of counts alone, take
        `pandas.DataFrame(result.to_dict()["results"])`.
        """
        import pandas

        columns = {"index": range(len(self.answers[0].predicted))}
        known = {} if self.labels is None else {"label": self.labels.numpy()}
        tables = [
            pandas.DataFrame(answer.question | columns | known | verdicts)
            for answer in self.answers
            for verdicts in [{name: results.entries(column) for name, column in answer.verdicts.items()}]
        ]
        return pandas.concat(tables, ignore_index=True)

    def __str__(self) -> str:
        return "\n".join(map(str, self.answers))
