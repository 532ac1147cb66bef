"""The training loop: data, noise, one step after another, validation, checkpoints, interruption and resumption.

For: ``train(config)``.  Not for: what is measured at a validation (``monitor.py``), optimisers (``optim.py``) or what a run
consists of (``state.py``).  Easy to get wrong: nothing in a step may depend on anything but the configuration, the seed and
the step number, or a resumed run is another run.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from maskdiff import checkpoint
from maskdiff.checkpoint import resolve_device
from maskdiff.config import Config
from maskdiff.config_io import dump_yaml
from maskdiff.data import Batches, PackedCanvases, pack, step_generator
from maskdiff.errors import ConfigError, LogitsError, UserError, quote
from maskdiff.languages import LANGUAGES, Vocabulary, make_language, model_vocabulary, token_lengths
from maskdiff.models.losses import sums_by, weighted_nll
from maskdiff.models.universal import LATE_INPUTS, UniversalDenoiser
from maskdiff.noise import MODES, Strings, mixture, reference_noise
from maskdiff.training.compiling import compiled
from maskdiff.training.conditioning import DROPOUT, NOISE, couple, self_condition
from maskdiff.training.console import STREAM, tell
from maskdiff.training.distributed import World, join_world, shard
from maskdiff.training.folder import RunFolder
from maskdiff.training.monitor import Monitor
from maskdiff.training.optimizers import lr_scale, make_optimizers, set_lr
from maskdiff.training.state import (
    Curve,
    Ema,
    Progress,
    capture,
    check_same_language,
    check_unchanged,
    restore,
)

ECHO = 1.0  # seconds in which a second signal is the same one again: launchers repeat to their processes what these have heard


class NotFinite(UserError):
    """The loss or the gradient of a step is not finite; nothing of the step was kept."""


class Trainer:
    """One training run; ``run()`` does it.

    Args:
        config: everything the run is made from.
        folder: where its files go; made if missing.
        resume: continue the run whose ``last.pt`` lies in ``folder``.
        init: a checkpoint whose weights to start from instead of random ones; not together with ``resume``.
    """

    def __init__(
        self, config: Config, folder: Path, resume: bool = False, init: str | Path | None = None
    ):
        train = config.train
        if resume and init is not None:
            raise ConfigError(
                "a run that is resumed has its weights already; give either resume or init"
            )
        self.device = resolve_device(train.device)
        if train.threads:
            torch.set_num_threads(train.threads)
        self.world: World = join_world(self.device)
        self.shards = train.shards or self.world.size
        self.own = self.world.own(self.shards)
        self.folder, self.resumed, self.files = folder, resume, RunFolder(folder)
        self.language = make_language(config.language)
        source = folder / "last.pt" if resume else init
        payload = None if source is None else checkpoint.load(source, self.device)
        self.vocabulary = vocabulary = self._vocabulary(config, payload, quote(str(source)))
        self.lengths = (
            token_lengths(self.language, vocabulary).tolist() if vocabulary.merges else ()
        )
        model_config = replace(
            config.model, vocab_size=len(vocabulary), block_size=config.language.max_len
        )
        self.config = replace(config, model=model_config)
        self.note = self.language.note
        if resume and payload is not None:
            self.note = self.note or self._check_same(payload, quote(str(source)))
        torch.manual_seed(train.seed)
        try:
            self.model = UniversalDenoiser(model_config).to(self.device)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.optimizers = make_optimizers(self.model, train)
        self.ema = Ema(self.model, train.ema)
        self.progress, self.curve = Progress(), Curve()
        if payload is not None:
            checkpoint.check_vocabulary(payload, vocabulary, quote(str(source)))
            if resume:
                state = restore(payload, self.model, self.ema, self.optimizers, quote(str(source)))
                self.progress, self.curve = state
                set_lr(self.optimizers, lr_scale(max(0, self.progress.step - 1), train))
            else:
                self.start_from(payload, quote(str(source)))
        self.batches = Batches(
            self.language, train.num_samples, train.batch_size, train.seed, length_tilt=train.length_tilt,
            vocabulary=vocabulary, in_a_row=train.strings_in_a_row,
        )  # fmt: skip
        self.losses = compiled(self.token_losses) if train.compile else self.token_losses
        self.read = compiled(self.logits) if train.compile else self.logits
        self.monitor: Monitor | None = None
        if self.world.leads:
            self.monitor = Monitor(self.config, self.language, vocabulary, folder, self.first())
        self.stop_signal: int | None = None

    def _check_same(self, payload: dict[str, Any], shown: str) -> str:
        """Check that configuration and strings are those of ``payload``; a note for the user."""
        check_unchanged(checkpoint.read_config(payload, shown), self.config, shown)
        where = self.config.language.language
        return check_same_language(payload.get("language", {}), self.language.state(), where, shown)

    def _vocabulary(self, config: Config, payload: dict[str, Any] | None, shown: str) -> Vocabulary:
        """What the model reads with. One that goes on with weights keeps its pieces: other strings would give others."""
        if (
            payload is not None
            and config.model.vocabulary == "bpe"
            and payload["vocabulary"].get("merges")
        ):
            return checkpoint.stored_pieces(payload, self.language, shown)
        return model_vocabulary(self.language, config.model)

    @torch.no_grad()
    def start_from(self, payload: dict[str, Any], shown: str) -> None:
        """Take over the weights of another run, not its optimiser and counters.

        Inputs that it lacks stay zero. Raises CheckpointError.
        """
        model = self.model.state_dict()
        new = {name: model[name] for name in LATE_INPUTS if name in model}
        weights = {**new, **payload["weights"]}
        checkpoint.check_fits(weights, model, f"the weights in {shown} do not fit this model")
        self.model.load_state_dict(weights)
        self.ema.load(weights)
        parent = payload.get("provenance", {})
        self.progress.parent_tokens = parent.get("tokens", 0) + parent.get("parent_tokens", 0)
        self.progress.parent_seconds = parent.get("train_seconds", 0.0) + parent.get(
            "parent_seconds", 0.0
        )

    # ------------------------------------------------------------------------------------------------------- one step

    def noised(self, strings: Strings, step: int) -> tuple[PackedCanvases, int]:
        """The packed global batch of one step, a function of (seed, step) alone, and its inner tokens."""
        config, width = self.config, self.config.language.max_len
        train, vocabulary = config.train, self.vocabulary
        generator = step_generator(train.seed, step, NOISE)
        if train.faithful:
            canvases = reference_noise(strings, config.noise, vocabulary, generator, width)
        else:
            canvases = mixture(strings, config, vocabulary, generator)
        return pack(canvases, width), int(strings.length.sum()) - 2 * len(strings)

    def logits(
        self,
        batch: PackedCanvases,
        tokens: Tensor,
        causal: Tensor,
        sigma: Tensor,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """(rows, width, vocab) logits of ``tokens`` laid out as the batch is."""
        where = {"segment": batch.segment, "position": batch.position, "from_end": batch.from_end}
        out: Tensor = self.model(
            tokens, sigma, causal=causal, previous=previous, noise=noise, **where
        )
        return out

    def token_losses(
        self, batch: PackedCanvases, previous: Tensor | None, noise: Tensor | None
    ) -> Tensor:
        """Weighted negative log-likelihood of every token, (rows, width)."""
        logits = self.logits(batch, batch.tokens, batch.causal, batch.sigma, previous, noise)
        return weighted_nll(logits, batch.targets, batch.weights)

    def step(self, batch: PackedCanvases, inner_tokens: int) -> tuple[float, Tensor]:
        """One update; the loss in nats per inner token of the global batch and its parts by mode, (modes, 2).

        Raises:
            NotFinite: the loss or the gradient is not finite; nothing was updated.
        """
        train, step, sums = self.config.train, self.progress.step, 1 + 2 * len(MODES)
        parts = [self.shard_sums(batch, inner_tokens, number) for number in self.own]
        total = self.world.add_up(torch.stack(parts))  # (sums + gradients,), alike in all processes
        seen = [weight for weight in self.model.parameters() if weight.grad is not None]
        gradients = total[sums:].split([weight.numel() for weight in seen])
        for weight, gradient in zip(seen, gradients, strict=True):
            weight.grad = gradient.view_as(weight)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.grad_clip or math.inf)
        loss, by_mode = total[0].item(), total[1:sums].view(2, len(MODES)).T.cpu()
        if not math.isfinite(loss + norm.item()):
            size = norm.item()
            raise NotFinite(f"the loss is {loss} and the gradient norm {size} at step {step}")
        set_lr(self.optimizers, lr_scale(step, train))
        for optimizer in self.optimizers:
            optimizer.step()
        self.ema.update(step)
        return loss, by_mode

    def shard_sums(self, batch: PackedCanvases, inner_tokens: int, number: int) -> Tensor:
        """Of one shard: loss, nats by mode, inner tokens by mode, and all gradients, in one row."""
        train, step = self.config.train, self.progress.step
        if self.config.model.dropout:
            seed = step_generator(train.seed, step, DROPOUT).initial_seed()
            torch.manual_seed(seed + number)
        share = partial(shard, number=number, shards=self.shards)
        mine = batch.map(share).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=train.amp):
            known = self.read, mine, self.config, self.vocabulary, step
            conditions = self_condition(*known), couple(*known, len(batch.tokens), share)
            losses = self.losses(mine, *conditions)
        loss = losses.sum() / inner_tokens
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        modes = torch.where(mine.segment >= 0, mine.mode, 0)
        by_mode = [sums_by(values, modes, len(MODES)) for values in (losses.detach(), mine.inner)]
        gradients = [w.grad.flatten() for w in self.model.parameters() if w.grad is not None]
        return torch.cat((loss.detach()[None], *by_mode, *gradients))

    # -------------------------------------------------------------------------------------------------------- the run

    def run(self) -> Progress:
        """Train to ``max_iters``, or until a signal; returns the counters.  Files are written by the leading process.

        Raises:
            UserError: a loss or a gradient was not finite; the state before that step is kept.
            FolderError: another process trains in the folder, or it was removed during the run.
        """
        with self.files if self.world.leads else nullcontext():
            try:
                self.begin()
                with self.interruptible():
                    try:
                        self.record()  # what the run had not come to between a save and its end
                        self.train()
                        if self.stop_signal is not None:
                            self.save_usable()
                    except NotFinite as error:
                        raise UserError(f"{error}; {self.keep_last_good()}") from None
            finally:
                if self.monitor:
                    self.monitor.close()
        self.world.close()
        return self.progress

    def begin(self) -> None:
        """Write ``config.yaml``, with absolute paths: a run resumes from any working directory."""
        if not self.world.leads:
            return
        if not self.files.locked:
            tell(f"the file system of {self.folder} has no locks: start no second training there")
        if not self.resumed or not self.finished or not (self.folder / "config.yaml").exists():
            language = self.config.language
            if language.language not in LANGUAGES:
                language = replace(language, language=str(Path(language.language).absolute()))
            if language.attempts:
                language = replace(language, attempts=str(Path(language.attempts).absolute()))
            config = replace(self.config, language=language)
            self.files.write("config.yaml", dump_yaml(config).encode())

    def train(self) -> None:
        """Step after step, with what is due after each."""
        progress, train = self.progress, self.config.train
        quiet = not self.world.leads
        bar = tqdm(
            total=train.max_iters, initial=progress.step, unit="step", disable=quiet, file=STREAM, mininterval=0.5,
            dynamic_ncols=True,
        )  # fmt: skip
        batches = self.batches.prefetch(progress.step, self.noised)
        with bar:
            while not self.finished and not self.stopped():
                batch, inner_tokens = next(batches)
                start = time.perf_counter()
                self.curve.loss, by_mode = self.step(batch, inner_tokens)
                self.curve.parts += by_mode
                progress.step += 1
                progress.tokens += inner_tokens
                progress.strings += train.batch_size
                progress.seconds += time.perf_counter() - start
                bar.update()
                if progress.step % train.log_interval == 0:
                    speed = f"{progress.tokens / progress.seconds:,.0f}"
                    bar.set_postfix(loss=f"{self.curve.loss:.3f}", tok_s=speed, refresh=False)
                if self.due(train.eval_interval) or self.due(train.save_interval):
                    self.save_usable()  # first: a validation that fails or is killed loses nothing
                self.record()

    def record(self) -> None:
        """Write the entry of the training curve and validate, if due and not done yet."""
        if self.log_due():
            if self.monitor:
                self.files.check()
                scale = lr_scale(self.progress.step - 1, self.config.train)
                self.monitor.log_step(self.progress, self.curve, scale)
            self.curve = Curve(loss=self.curve.loss, logged=self.progress.step)
        if self.validation_due():
            self.validate()

    def log_due(self) -> bool:
        """Whether this step's entry of the training curve is to be written."""
        step = self.progress.step
        return step % self.config.train.log_interval == 0 and self.curve.logged != step

    def validation_due(self) -> bool:
        """Whether this step's validation is to be made; a run without steps has one, too."""
        due = self.due(self.config.train.eval_interval)
        return due and self.progress.validated != self.progress.step

    def first(self) -> int:
        """The first step that this process logs; what a killed one logged from there on is void."""
        step = self.progress.step
        again = self.log_due() or (self.validation_due() and self.curve.logged != step)
        return step if again or not step else step + 1

    @property
    def finished(self) -> bool:
        """Whether all steps are made."""
        return self.progress.step >= self.config.train.max_iters

    def due(self, interval: int) -> bool:
        """Whether what is done every ``interval`` steps, and at the end, is to be done now."""
        step = self.progress.step
        return step == self.config.train.max_iters or (step > 0 and step % interval == 0)

    def stopped(self) -> bool:
        """Whether any process has heard a signal; from then on all of them know its number."""
        number = self.world.largest(self.stop_signal or 0)
        if number:  # else a signal that came meanwhile would be forgotten
            self.stop_signal = number
        return number > 0

    def validate(self) -> None:
        """Score the averaged weights on held-out strings, note it in last.pt, keep them as best.pt if they are the best yet."""
        if not self.monitor:
            return
        self.files.check()
        progress = self.progress
        try:
            progress.metrics = self.monitor.validate(self.ema.average, progress)
        except LogitsError as error:
            raise NotFinite(f"the validation after step {progress.step} failed: {error}") from None
        progress.validated = progress.step
        loss = progress.metrics["validation_loss"]
        if loss < progress.best:
            progress.best, progress.best_step = loss, progress.step
            self.save("best.pt")
        self.save("last.pt")

    def usable(self) -> bool:
        """Whether the weights, live and averaged, give finite logits; only the leader finds out."""
        both = (self.ema.live, self.ema.average)
        return self.monitor is None or all(map(self.monitor.finite, both))

    def save_usable(self) -> None:
        """Write ``last.pt``.  Raises NotFinite, and keeps the old file, for unusable weights."""
        if not self.usable():
            step = self.progress.step
            raise NotFinite(f"the weights after step {step} give NaN or infinite logits")
        self.save("last.pt")

    def keep_last_good(self) -> str:
        """Save the state before a step that failed, unless its weights are ruined already; what is kept, in words."""
        last, step = self.folder / "last.pt", self.progress.step
        if self.usable():
            self.save("last.pt")
            return f"{last} holds the state before it: resume with a lower lr or muon_lr, or with grad_clip"
        earlier = (
            f"{last} holds an earlier one: resume"
            if last.exists()
            else "nothing was saved: start again"
        )
        return (
            f"the weights after {step} steps are unusable; {earlier} with a lower lr or muon_lr, "
            "or with grad_clip"
        )

    def save(self, name: str) -> None:
        """Write a checkpoint, in the leading process; ``last.pt`` carries the training state, ``best.pt`` does not."""
        if not self.world.leads:
            return
        progress, train = self.progress, self.config.train
        provenance = {
            "step": progress.step,
            "tokens": progress.tokens,
            "strings": progress.strings,
            "train_seconds": round(progress.seconds, 1),
            "parent_tokens": progress.parent_tokens,
            "parent_seconds": round(progress.parent_seconds, 1),
            "threads": torch.get_num_threads(),
            "processes": self.world.size,
            "seed": train.seed,
            "device": str(self.device),
        }
        state = capture(self.model, self.optimizers, progress, self.curve)
        extra = {"training": state} if name == "last.pt" else {}
        payload = checkpoint.make_payload(
            self.config, self.vocabulary, self.ema.average, language=self.language.state(), metrics=progress.metrics,
            provenance=provenance, lengths=self.lengths, **extra,
        )  # fmt: skip
        self.files.write(name, checkpoint.to_bytes(payload))

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the run after the step under way; one more, a second later, ends it at once."""
        first: float | None = None

        def note(number: int, _: FrameType | None) -> None:
            nonlocal first
            now = time.monotonic()
            if first is not None and now - first > ECHO:
                raise KeyboardInterrupt
            first, self.stop_signal = first or now, self.stop_signal or number

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
