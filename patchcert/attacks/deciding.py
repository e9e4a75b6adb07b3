"""Attacks on double masking of hidden windows that climb on few copies: those that decide.

Let ℓ be the patch's place. What is left without ℓ, alone or together with a second place, does not depend on the
patch. So the answer can only fall if without ℓ and some place p the clean image has another class t. It falls to t for
certain if all pairs of p and any second place give t: then p dissents and is confirmed. Some second places hide the
patch. So a restart takes the p and t that lead most in the worst of these pairs, and climbs on the others of p. In each
step it asks about a few of them: those of which t was farthest from winning when they were asked last.

Only the classifier itself, asked at the end of each restart, says whether the answer fell.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from patchcert import networks
from patchcert.ablations.ablation import encode
from patchcert.attacks.ascent import CONTENT, Attack, Trials, log_mean_softmax
from patchcert.attacks.threats import Threat
from patchcert.classifiers.in_order import CopiesInOrder
from patchcert.classifiers.masked import MaskedClassifier
from patchcert.classifiers.modules import SmoothedClassifier
from patchcert.engines.added_up import parted
from patchcert.engines.mirrored import one_side
from patchcert.masking.double_masking import ahead, least_ahead
from patchcert.masking.linked import WindowMasking
from patchcert.patch import Patch

PAIRS_AT_ONCE = 16
"""Of which a step takes the gradient. Where windows are refined, neighbouring ones share their copies."""

FAR = 1e6
"""More than any lead."""


@dataclass
class _Row:
    """What R trials climb on: all pairs of one place p with a second one.

    Attributes:
        place: (R,) int64, p.
        rival: (R,) int64, t.
        copies: (R, k²) int64, the copies without the window at p and each other window.
        in_sight: (R, k²) bool, whether the other window leaves the patch in sight.
        known: (R, k², K), their scores when they were asked last, at first on the clean image.
    """

    place: Tensor
    rival: Tensor
    copies: Tensor
    in_sight: Tensor
    known: Tensor


class DissenterAttack(Attack):
    """The attack on a `MaskedClassifier` that is asked `in_order`, by the pairs of one place at a time."""

    def __init__(self, classifier: MaskedClassifier, *arguments: object, **more: object):
        super().__init__(classifier, *arguments, **more)
        if not classifier.limited_reach:
            self.together = max(1, self.batch_size // PAIRS_AT_ONCE)
        self.order = CopiesInOrder(classifier, self.batch_size)
        self.masking: WindowMasking = classifier.masking.to(self.targets.labels.device)
        self.numbers = self.masking.windows.copy_numbers()  # (k², k²)
        self.blind = self._blind(self.threat.patch)

    def _blind(self, patch: Patch) -> Tensor:
        """(L, k²) bool: whether the patch at each place is hidden by each window; of refined ones, by either kind."""
        windows = self.masking.windows
        if not self.order.refined:
            return windows.hidden().covering(patch).flatten(1).T
        kinds = (windows.coarse, windows.of_coarse), (windows.fine, windows.of_fine)
        coarse, fine = (kind.hidden().covering(patch).flatten(1)[numbers].T for kind, numbers in kinds)
        return (coarse | fine).to(windows.cells.device)

    def gradient_at(self, images: Tensor, trials: Trials) -> Tensor:
        return self._slope(images, trials.labels, self._aim(trials), mirrored=False)[1]

    def _climb(
        self, trials: Trials, images: Tensor, steps: int, step_size: float, done: Callable[[int], object]
    ) -> dict:
        row, velocity = self._aim(trials), torch.zeros_like(images)
        for step in range(steps):
            losses, gradient = self._slope(images, trials.labels, row, mirrored=step % 2 == 1)
            images, velocity = self.moved(images, velocity, gradient, trials, step_size)
            done(len(images))
        predicted = self.classifier.predict(images, self.batch_size)
        done(len(images))
        flipped, fallen = predicted != trials.labels, []
        if flipped.any():
            found = {"numbers": trials.numbers[flipped], "images": images[flipped], "predicted": predicted[flipped]}
            parts = self.classifier.every_copy(images[flipped], self.batch_size)
            totals = torch.cat([self.classifier.ballots(logits).sum(dim=1) for logits in parts])
            fallen.append(found | {"totals": totals, "step": steps})
        return {"fallen": fallen, "standing": trials.numbers[~flipped], "losses": losses[~flipped]}

    def _aim(self, trials: Trials) -> _Row:
        """The place p and the rival t of each trial, so that the pairs that the patch cannot change give t as it is."""
        masking, every = self.masking, torch.arange(len(trials.labels), device=trials.labels.device)
        bands, windows = self._parts(trials.ballots)
        windows = windows[:, self.numbers]  # (R, k², k², K)
        no_windows, blind = torch.zeros_like(windows[:, 0]), self.blind[trials.places]  # (R, k²)
        of_bands = masking.beside(masking.over(trials.places), bands, no_windows)
        left = of_bands[:, :, None] + windows[:, masking.window_at]  # (R, P, k², K)
        highest = left.topk(min(2, left.shape[3]), dim=3).values
        leads = left - highest[..., -1:].where(left == highest[..., :1], highest[..., :1])
        least = leads.masked_fill(~blind[:, None, :, None], torch.inf).amin(dim=2)  # (R, P, K)
        least = least.where(~blind[:, masking.window_at, None], least - FAR)  # there is nothing to climb on
        least = least.scatter(2, trials.labels[:, None, None].expand(-1, least.shape[1], 1), -torch.inf)
        found = least.flatten(1).argmax(dim=1)
        place, rival = found // least.shape[2], found % least.shape[2]
        window = masking.window_at[place]
        return _Row(place, rival, self.numbers[window], ~blind, windows[every, window])

    def _parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The scores (R, bands, K) of bands, of which there may be none, and those of copies with hidden windows."""
        return scores.tensor_split([scores.shape[1] - self.masking.windows.count], dim=1)

    def _slope(self, images: Tensor, labels: Tensor, row: _Row, mirrored: bool) -> tuple[Tensor, Tensor]:
        """The loss (R,) on some pairs of the `row`, which then knows more, and its gradient (R, C, H, W)."""
        with torch.enable_grad():
            shown = images.detach().requires_grad_()
            bands = self._bands(shown, mirrored)
            of_bands, _ = parted(bands)
            lead = self._leads(row, of_bands.detach(), row.known)[1].masked_fill(~row.in_sight, torch.inf)
            chosen = lead.topk(min(PAIRS_AT_ONCE, lead.shape[1]), dim=1, largest=False).indices  # (R, B)
            asked = self._scores(shown, row.copies.gather(1, chosen), bands, mirrored)
            known = row.known.scatter(1, chosen[:, :, None].expand_as(asked), asked)
            row.known = known.detach()
            left, lead = self._leads(row, of_bands, known)
            if self.ascent.loss is log_mean_softmax:
                log_p = (self.masking.temperature * left).log_softmax(dim=2)
                loss = log_mean_softmax(log_p, log_p, labels)
            else:
                loss = (self.masking.temperature * lead.gather(1, chosen)).clamp_max(CONTENT).mean(dim=1)
        (gradient,) = torch.autograd.grad(loss.sum(), shown)
        return loss.detach(), gradient

    def _leads(self, row: _Row, bands: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        """What p and each second place leave, (R, P, K), and the rival's least lead there in each window, (R, k²)."""
        left = self.masking.beside(row.place, bands, windows)
        leads = least_ahead(row.rival, ahead(row.rival, left))
        windows_at = self.masking.window_at.expand_as(leads)
        return left, torch.full_like(windows[..., 0], torch.inf).scatter_reduce(1, windows_at, leads, "amin")

    def _bands(self, images: Tensor, mirrored: bool) -> Tensor:
        """(R, bands, K + 1), see `added_up`; of the mirror image, where the classifier asks about it, too."""
        joint = self.order.joint
        if joint is None:
            return images.new_zeros(len(images), 0, self.targets.outputs.shape[2] + 1)
        return networks.finite(one_side(joint.of_bands, images, mirrored).float())

    def _scores(self, images: Tensor, copies: Tensor, bands: Tensor, mirrored: bool) -> Tensor:
        """(R, B, K): the scores of some `copies` (R, B) with hidden windows, see `_bands`."""
        order, numbers = self.order, copies.flatten()
        image = torch.arange(len(copies), device=copies.device).repeat_interleave(copies.shape[1])
        said = self._asked(images, image, order.coarse[numbers], mirrored)
        if order.refined:
            others = order.joint.outside_windows(bands)[image, numbers]
            unsure = (~order.refined.settled(said, others)).nonzero().squeeze(1)
            fine = torch.zeros_like(said)
            if len(unsure):
                finer = self._asked(images, image[unsure], order.fine[numbers[unsure]], mirrored)
                fine = fine.index_put((unsure,), finer)
            said = order.refined.mixed(said, others, fine)
        return order.weight * parted(said)[0].unflatten(0, copies.shape)

    def _asked(self, images: Tensor, image: Tensor, questions: Tensor, mirrored: bool) -> Tensor:
        """(B, K + 1): the answers to `questions` (B,) about the images with numbers `image` (B,), each asked once."""
        count = len(self.order.pairs)
        new, where = (image * count + questions).unique(return_inverse=True)
        hidden = self.order.hiding.hidden(self.order.pairs[new % count])
        shown = encode(images[new // count]) * ~hidden[:, None]
        answers = one_side(self.order.network, shown, mirrored)
        networks.require_gradient(answers, shown)
        return networks.finite(answers.float())[where]


def attack_on(classifier: SmoothedClassifier, threat: Threat, *arguments: object, **more: object) -> Attack:
    """The `Attack` that suits the classifier, with these arguments."""
    in_order = isinstance(classifier, MaskedClassifier) and classifier.in_order
    same = in_order and getattr(threat, "patch", None) == classifier.patch  # else its masks are made for another one
    return (DissenterAttack if same else Attack)(classifier, threat, *arguments, **more)
