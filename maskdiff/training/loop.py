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
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from maskdiff import checkpoint
from maskdiff.checkpoint import resolve_device
from maskdiff.config import Config
from maskdiff.configio import dump_yaml
from maskdiff.data import Batches, PackedCanvases, pack, step_generator
from maskdiff.errors import CheckpointError, ConfigError, UserError, folded, quote
from maskdiff.languages import Vocabulary, make_language, model_vocabulary, token_lengths
from maskdiff.model import LATE_INPUTS, UniversalDenoiser
from maskdiff.noise import MODES, Strings, mixture, reference_noise
from maskdiff.objectives import sums_by, weighted_nll
from maskdiff.training.compiling import compiled
from maskdiff.training.conditioning import DROPOUT, NOISE, couple, self_condition
from maskdiff.training.distributed import World, join_world
from maskdiff.training.monitor import Monitor
from maskdiff.training.optim import lr_scale, make_optimizers, set_lr
from maskdiff.training.state import Ema, Progress, capture, check_unchanged, restore
from maskdiff.training.telling import STREAM

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

    def __init__(self, config: Config, folder: Path, resume: bool = False, init: str | Path | None = None):
        train = config.train
        if resume and init is not None:
            raise ConfigError("a run that is resumed has its weights already; give either resume or init")
        self.device = resolve_device(train.device)
        if train.threads:
            torch.set_num_threads(train.threads)
        self.world: World = join_world(self.device)
        self.language = make_language(config.language)
        source = folder / "last.pt" if resume else init
        payload = None if source is None else checkpoint.load(source, self.device)
        self.vocabulary = vocabulary = self._vocabulary(config, payload, quote(str(source)))
        self.lengths = token_lengths(self.language, vocabulary).tolist() if vocabulary.merges else ()
        model_config = replace(config.model, vocab_size=len(vocabulary), block_size=config.language.max_len)
        self.config = replace(config, model=model_config)
        self.folder, self.resumed = folder, resume
        if resume and payload is not None:
            check_unchanged(checkpoint.read_config(payload, quote(str(source))), self.config, quote(str(source)))
            before, now = payload.get("language", {}), self.language.state()
            if other := [name for name in before if before[name] != now.get(name)]:
                where = quote(config.language.language)
                raise ConfigError(f"{', '.join(other)} of {where} changed since {folder} was trained; start a new run")
        torch.manual_seed(train.seed)
        try:
            self.model = UniversalDenoiser(model_config).to(self.device)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.optimizers = make_optimizers(self.model, train)
        self.ema = Ema(self.model, train.ema)
        self.progress = Progress()
        if payload is not None:
            checkpoint.check_vocabulary(payload, vocabulary, quote(str(source)))
            if resume:
                self.progress = restore(payload, self.model, self.ema, self.optimizers, self.config)
            else:
                self.start_from(payload)
        self.batches = Batches(
            self.language, train.num_samples, train.batch_size, train.seed, length_tilt=train.length_tilt,
            vocabulary=vocabulary, in_a_row=train.strings_in_a_row,
        )  # fmt: skip
        self.losses = compiled(self.token_losses) if train.compile else self.token_losses
        self.read = compiled(self.logits) if train.compile else self.logits
        self.monitor = Monitor(self.config, self.language, vocabulary, folder, self.progress.step) if self.world.leads else None
        self.stop_signal: int | None = None

    def _vocabulary(self, config: Config, payload: dict[str, Any] | None, shown: str) -> Vocabulary:
        """What the model reads with. One that goes on with weights keeps its pieces: other strings would give others."""
        if payload is not None and config.model.vocabulary == "bpe" and payload["vocabulary"].get("merges"):
            return checkpoint.stored_pieces(payload, self.language, shown)
        return model_vocabulary(self.language, config.model)

    @torch.no_grad()
    def start_from(self, payload: dict[str, Any]) -> None:
        """Take over the weights of another run, not its optimiser and counters; inputs that it lacks stay zero."""
        new = {name: w for name, w in self.model.state_dict().items() if name in LATE_INPUTS}
        weights = {**new, **payload["weights"]}
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"the weights to start from do not fit this model: {folded(error)}"
            ) from None
        self.ema.load(weights)
        parent = payload.get("provenance", {})
        self.progress.parent_tokens = parent.get("tokens", 0) + parent.get("parent_tokens", 0)
        self.progress.parent_seconds = parent.get("train_seconds", 0.0) + parent.get("parent_seconds", 0.0)

    # ------------------------------------------------------------------------------------------------------- one step

    def noised(self, strings: Strings, step: int) -> tuple[PackedCanvases, int]:
        """The packed global batch of one step, a function of (seed, step) alone, and its inner tokens."""
        config, width = self.config, self.config.language.max_len
        train, vocabulary = config.train, self.vocabulary
        generator = step_generator(train.seed, step, NOISE)
        if train.faithful:
            canvases = reference_noise(strings, config.noise, vocabulary, generator, width)
        else:
            skeleton = train.skeleton_share if vocabulary.digit is not None else 0.0  # other languages have no skeletons
            canvases = mixture(
                strings, config.noise, train.causal_share, train.repair_share, skeleton, train.loss_weight, vocabulary,
                generator, width, train.cut_rows, train.open_share,
            )  # fmt: skip
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
        out: Tensor = self.model(tokens, sigma, causal=causal, previous=previous, noise=noise, **where)
        return out

    def token_losses(self, batch: PackedCanvases, previous: Tensor | None, noise: Tensor | None) -> Tensor:
        """Weighted negative log-likelihood of every token, (rows, width)."""
        logits = self.logits(batch, batch.tokens, batch.causal, batch.sigma, previous, noise)
        return weighted_nll(logits, batch.targets, batch.weights)

    def step(self, batch: PackedCanvases, inner_tokens: int) -> tuple[float, Tensor]:
        """One update; the loss in nats per inner token of the global batch and its parts by mode, (modes, 2).

        Raises:
            NotFinite: the loss or the gradient is not finite; nothing was updated.
        """
        train, step = self.config.train, self.progress.step
        if self.config.model.dropout:
            torch.manual_seed(step_generator(train.seed, step, DROPOUT).initial_seed() + self.world.rank)
        mine = batch.map(self.world.share).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=train.amp):
            known = self.read, mine, self.config, self.vocabulary, step
            losses = self.losses(mine, self_condition(*known), couple(*known, len(batch.tokens), self.world))
        loss = losses.sum() / inner_tokens
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.world.sum_gradients(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.grad_clip or math.inf)
        total = self.world.sum(loss.detach().clone()).item()
        if not math.isfinite(total + norm.item()):
            raise NotFinite(f"the loss is {total} and the gradient norm {norm.item()} at step {step}")
        set_lr(self.optimizers, lr_scale(step, train))
        for optimizer in self.optimizers:
            optimizer.step()
        self.ema.update(step)
        modes = torch.where(mine.segment >= 0, mine.mode, 0)
        by_mode = [sums_by(values, modes, len(MODES)) for values in (losses.detach(), mine.inner)]
        return total, torch.stack(by_mode, dim=1)

    # -------------------------------------------------------------------------------------------------------- the run

    def run(self) -> Progress:
        """Train to ``max_iters``, or until a signal; returns the counters.  Files are written by the leading process.

        Raises:
            UserError: a loss or a gradient was not finite; the state before that step is kept.
        """
        settings = self.folder / "config.yaml"
        if self.world.leads and (not self.resumed or not self.finished or not settings.exists()):
            checkpoint.write_atomic(settings, dump_yaml(self.config).encode())
        try:
            with self.interruptible():
                if self.due(self.config.train.eval_interval) and self.progress.validated != self.progress.step:
                    self.validate()  # the run was cut off between a save and its validation, or has no steps at all
                try:
                    self.train()
                except NotFinite as error:
                    raise UserError(f"{error}; {self.keep_last_good()}") from None
                if self.stop_signal is not None:
                    self.save("last.pt")
        finally:
            if self.monitor:
                self.monitor.close()
        self.world.close()
        return self.progress

    def train(self) -> None:
        """Step after step, with what is due after each."""
        progress, train = self.progress, self.config.train
        parts = torch.zeros(len(MODES), 2)
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
                loss, by_mode = self.step(batch, inner_tokens)
                parts += by_mode.cpu()
                progress.step += 1
                progress.tokens += inner_tokens
                progress.strings += train.batch_size
                progress.seconds += time.perf_counter() - start
                bar.update()
                if progress.step % train.log_interval == 0 and self.monitor:
                    self.monitor.log_step(progress, loss, parts, lr_scale(progress.step - 1, train))
                    parts.zero_()
                    bar.set_postfix(loss=f"{loss:.3f}", tok_s=f"{progress.tokens / progress.seconds:,.0f}", refresh=False)
                if self.due(train.eval_interval):
                    self.save("last.pt")  # first, so that a validation that fails or is killed loses nothing
                    self.validate()
                elif self.due(train.save_interval):
                    self.save("last.pt")

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
        progress = self.progress
        progress.metrics = self.monitor.validate(self.ema.average, progress)
        progress.validated = progress.step
        loss = progress.metrics["validation_loss"]
        if loss < progress.best:
            progress.best, progress.best_step = loss, progress.step
            self.save("best.pt")
        self.save("last.pt")

    def keep_last_good(self) -> str:
        """Save the state before a step that failed, unless its weights are ruined already; what is kept, in words."""
        last, step = self.folder / "last.pt", self.progress.step
        if all(bool(w.isfinite().all()) for w in (*self.ema.live.values(), *self.ema.average.values())):
            self.save("last.pt")
            return f"{last} holds the state before it: resume with a lower lr or muon_lr, or with grad_clip"
        earlier = f"{last} holds an earlier one: resume" if last.exists() else "nothing was saved: start again"
        return f"the weights are not finite after {step} steps either, {earlier} with a lower lr or muon_lr, or with grad_clip"

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
        extra = {"training": capture(self.model, self.optimizers, progress)} if name == "last.pt" else {}
        payload = checkpoint.make_payload(
            self.config, self.vocabulary, self.ema.average, language=self.language.state(), metrics=progress.metrics,
            provenance=provenance, lengths=self.lengths, **extra,
        )  # fmt: skip
        checkpoint.save(self.folder / name, payload)

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
