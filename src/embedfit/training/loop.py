"""The training loop: batch, gradients, update; now and then a dev score and a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from embedfit.config import TrainConfig
from embedfit.errors import TrainingError
from embedfit.numerics.arrays import Ints
from embedfit.path.artefacts import DevScore, TrainingStep
from embedfit.progress import duration
from embedfit.runtime import Runtime
from embedfit.training.batches import Composes, TrainingBatch, epoch_batches, micro_batches
from embedfit.training.checkpoint import TrainingState, differences, read_state, restore, save_checkpoint
from embedfit.training.dev import DevSet, dev_score
from embedfit.training.losses.loss import Targets
from embedfit.training.losses.objective import Objective
from embedfit.training.memory import MemoryBudget
from embedfit.training.optimise import clip_gradients, make_optimiser, scheduled, set_learning_rate
from embedfit.training.processes.world import World
from embedfit.training.step import StepResult, accumulate_gradients
from embedfit.training.store import TokenStore
from embedfit.training.trunk import Trunk

#: The uses of random draws. Each has generators of its own, made from the seed, this number and the epoch or step.
_ORDER, _COMPOSE, _DROPOUT = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """The plan of a training.

    settings: all are decided; 0 for "choose" occurs no more. gradient_scale: see accumulate_gradients. must_equal: the
    settings in which a checkpoint must agree for training to resume from it.
    """

    settings: TrainConfig
    objective: Objective
    seed: int
    gradient_scale: float = 1.0
    must_equal: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """The result of a training.

    tensors: the best weights by dev score, or the last ones without a dev set; best_step: the step that made them.
    retained: the least share of a step's micro-batches whose graph was kept. padded: share of the encoded tokens that
    were padding.
    """

    state: TrainingState
    tensors: dict[str, Tensor]
    best_step: int
    retained: float
    padded: float

    @property
    def base_dev(self) -> float | None:
        """The dev score before the first step."""
        return next((score.ndcg10 for score in self.state.dev if score.step == 0), None)

    @property
    def trained_dev(self) -> tuple[DevScore, ...]:
        """The dev scores after steps."""
        return self.state.trained_dev


class Schedule:
    """The batch of each step: a pure function of the examples, the seed and the step."""

    def __init__(self, composer: Composes, settings: TrainConfig, seed: int) -> None:
        self._composer, self._size, self._seed = composer, settings.batch_size, seed
        self._epoch, self._order = -1, list[Ints]()
        self.steps_per_epoch = len(self._batches(0))
        self.total = max(1, math.ceil(settings.epochs * self.steps_per_epoch - 1e-9))

    def batch(self, step: int) -> TrainingBatch:
        """The batch of a 0-based step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen = self._batches(epoch)[place]
        return self._composer.compose(chosen, np.random.default_rng([self._seed, _COMPOSE, step]))

    def _batches(self, epoch: int) -> list[Ints]:
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, _ORDER, epoch])
            self._order, self._epoch = epoch_batches(self._composer.examples, self._size, rng), epoch
        return self._order


class Trainer:
    """One training: its model, data and state."""

    def __init__(
        self,
        trunk: Trunk,
        store: TokenStore,
        schedule: Schedule,
        plan: TrainingPlan,
        *,
        dev: DevSet | None,
        memory: MemoryBudget,
        runtime: Runtime,
        world: World = World(),  # noqa: B008 - frozen
    ) -> None:
        self.trunk, self.store, self.schedule, self.plan = trunk, store, schedule, plan
        self.dev, self.memory, self.report, self.world = dev, memory, runtime.report, world
        self.tracking = runtime.tracking
        self.settings = plan.settings
        self.optimiser = make_optimiser(trunk.parameters(), self.settings.weight_decay)
        self.state = TrainingState(step=0, settings=dict(plan.must_equal))
        self.best: dict[str, Tensor] = {}
        self._padded = self._tokens = 0
        self._retained = 1.0

    def run(self, scratch: Path) -> TrainingOutcome:
        """Train to the end, starting from this plan's checkpoint under scratch if it is there.

        Raises TrainingError when the loss is no longer a number; the last checkpoint stays.
        """
        self._resume(scratch)
        if self.dev is not None and self.state.step == 0:
            self._record_dev(self.dev)
            self.report.log(f"train: dev nDCG@10 of the base: {self.state.dev[-1].ndcg10:.4f}")
        total, first = self.schedule.total, self.state.step
        with ThreadPoolExecutor(1) as pool, self.report.task("train", total, "steps") as task:
            task.advance(first)
            upcoming = pool.submit(self.schedule.batch, first)
            while self.state.step < total and not self.state.stopped:
                batch = upcoming.result()
                if self.state.step + 1 < total:
                    upcoming = pool.submit(self.schedule.batch, self.state.step + 1)
                record = self.step(batch)
                if self.state.step == first + 2:
                    self._estimate(record)
                self._after_step(scratch)
                dev = f", dev {self.state.dev[-1].ndcg10:.3f}" if self.state.trained_dev else ""
                task.advance(1, f"loss {record.loss:.3f}, {record.tokens / record.seconds:,.0f} tokens/s{dev}")
        return self._outcome()

    def step(self, batch: TrainingBatch) -> TrainingStep:
        """Train on the next batch."""
        began = time.perf_counter()
        step, settings = self.state.step, self.settings
        rate = scheduled(step, self.schedule.total, settings.learning_rate, settings.warmup_ratio)
        result = self.gradients(batch, step)
        if not math.isfinite(result.loss):
            raise self._stop("loss", result.loss, batch)
        norm = clip_gradients(self.trunk.parameters(), settings.max_grad_norm)
        if not math.isfinite(norm):
            raise self._stop("gradient", norm, batch)
        set_learning_rate(self.optimiser, rate)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        record = TrainingStep(
            step=step + 1, loss=result.loss, lr=rate, grad_norm=norm, seconds=seconds, tokens=result.tokens
        )
        self._tokens += result.tokens
        self._padded += result.padded
        self._retained = min(self._retained, result.retained)
        self.state = replace(self.state, step=step + 1, losses=[*self.state.losses, record])
        self.tracking.training_step(record)
        return record

    def gradients(self, batch: TrainingBatch, step: int) -> StepResult:
        """Add the gradients of a batch to the trunk's parameters."""
        where, plan = self.trunk.device, self.plan
        targets = Targets.of(batch, where)
        queries, passages = torch.from_numpy(batch.queries).to(where), torch.from_numpy(batch.passages).to(where)
        frozen = None if batch.frozen is None else torch.from_numpy(batch.frozen).to(where)
        self.trunk.train(self.settings.dropout)
        seed = int(np.random.default_rng([plan.seed, _DROPOUT, step]).integers(2**62))
        return accumulate_gradients(
            self.trunk,
            [self.store[text] for text in batch.texts],
            micro_batches(self.store.lengths[batch.texts], self.settings.tokens_per_micro_batch),
            lambda vectors: plan.objective(vectors[queries], vectors[passages] if frozen is None else frozen, targets),
            memory=self.memory,
            seed=seed if self.settings.dropout else None,
            world=self.world,
            scale=plan.gradient_scale,
        )

    def _stop(self, what: str, value: float, batch: TrainingBatch) -> TrainingError:
        lines = ", ".join(str(row + 1) for row in batch.rows[:10]) + (" …" if len(batch.rows) > 10 else "")
        kept = " The last good checkpoint is kept." if self.state.step >= self.settings.checkpoint_every else ""
        return TrainingError(
            f"The {what} of step {self.state.step + 1} is {value}; training stopped. "
            f"Its batch holds the rows {lines} of train.jsonl.{kept}",
            remedy="Lower the learning rate or raise the temperature: --set train.learning_rate=1e-5",
        )

    def _after_step(self, scratch: Path) -> None:
        last = self.state.step == self.schedule.total
        if self.dev is not None and (last or self.state.step % self.settings.eval_every == 0):
            self._record_dev(self.dev)
            self._keep_best()
        if not last and self.state.step % self.settings.checkpoint_every == 0 and not self.state.stopped:
            if self.world.leads:
                save_checkpoint(scratch, self.state, self.trunk.parameters(), self.optimiser, self.best)
            self.world.barrier()

    def _record_dev(self, dev: DevSet) -> None:
        self.trunk.train(0.0)
        score = dev_score(self.trunk, dev, self.settings.tokens_per_micro_batch, self.world)
        self.state = replace(self.state, dev=[*self.state.dev, DevScore(step=self.state.step, ndcg10=score)])
        self.tracking.dev_score(self.state.dev[-1])

    def _keep_best(self) -> None:
        """Keep the weights if they are the best so far; stop if no better ones came for too long."""
        best = self.state.best_dev
        if best is None or self.settings.keep == "last":
            return
        if best.step == self.state.step:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.trunk.tensors().items()}
        since = sum(score.step > best.step for score in self.state.trained_dev)
        if self.settings.patience and since >= self.settings.patience:
            self.state = replace(self.state, stopped=True)
            self.report.log(
                f"train: stopped after step {self.state.step}: "
                f"no better dev score than {best.ndcg10:.4f} at step {best.step}"
            )

    def _resume(self, scratch: Path) -> None:
        found = read_state(scratch)
        if found is None:
            return
        path, state = found
        different = differences(self.state.settings, state.settings)
        if different:
            self.report.log(f"train: a checkpoint of another {', '.join(different)} is ignored")
            return
        try:
            self.best = restore(path, self.trunk.parameters(), self.optimiser)
        except ValueError as error:
            self.report.log(f"train: a checkpoint is ignored: {error}")
            return
        self.state = state
        self.tracking.past_training(state.losses, state.dev)
        self.report.log(f"train: going on after step {state.step} of {self.schedule.total}")

    def _estimate(self, record: TrainingStep) -> None:
        total = self.schedule.total
        left = duration((total - self.state.step) * record.seconds)
        self.report.log(
            f"train: {total} steps of {self.settings.batch_size} rows, about {left} "
            f"at {record.tokens / record.seconds:,.0f} tokens/s, dev scores not counted"
        )

    def _outcome(self) -> TrainingOutcome:
        best = self.state.best_dev if self.best else None
        return TrainingOutcome(
            state=self.state,
            tensors=self.trunk.tensors() if best is None else self.best,
            best_step=self.state.step if best is None else best.step,
            retained=self._retained,
            padded=1 - self._tokens / max(self._padded, 1),
        )
