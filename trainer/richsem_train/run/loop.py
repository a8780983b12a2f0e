"""The steps of a run: taken one after the other, saved and scored in between, ended early where that is asked for."""

from collections.abc import Iterator, Sequence

from richsem_schemas.scoring.metrics import is_defined
from richsem_train.console import Reporter
from richsem_train.data.loaders import LoadedStep
from richsem_train.results.class_aps import aps_of_truth
from richsem_train.results.tables import AP_UNDEFINED
from richsem_train.run.assemble import AssembledRun
from richsem_train.run.build import batch_detector
from richsem_train.run.checkpoint import save_checkpoint
from richsem_train.run.engine import memory_limit_explained
from richsem_train.run.evaluate import SplitScores, evaluate_split
from richsem_train.run.folder import RunFolder
from richsem_train.run.log import LOG_NAME, read_log
from richsem_train.run.signals import StopRequest
from richsem_train.run.step_log import StepLog

_SMALLER_STEP = (
    "cut its batch into more parts by schedule.accumulate, or keep less of it by "
    "model.deformable_attention=torch-checkpoint, and go on with --resume; or begin anew with schedule.precision=bf16"
)


class TrainingLoop:
    """Takes the steps of a run."""

    def __init__(
        self,
        run: AssembledRun,
        folder: RunFolder,
        log: StepLog,
        reporter: Reporter,
        stop: StopRequest,
        *,
        best_ap: float = -1.0,
    ) -> None:
        self._run = run
        self._folder = folder
        self._log = log
        self._reporter = reporter
        self._stop = stop
        self._best_ap = best_ap

    def take_steps(self, first_step: int) -> int:
        """Take the steps that are left; an evaluation that those before left undone comes first.

        Returns:
            Steps taken in all.
        """
        run = self._run
        if first_step and self._is_evaluation_due(first_step) and not self._was_evaluated(first_step):
            self._evaluate(first_step)
        taken = first_step
        self._log.begin(taken)
        batches = self._until_stopped(run.batches(first_step, run.total_steps))
        while taken < run.total_steps:
            should_stop = not self._launch_next(batches)
            taken += not should_stop
            is_due = self._is_evaluation_due(taken)
            if should_stop or is_due or taken % run.config.log.checkpoint_every_steps == 0:
                should_stop |= self._finish_step()
                self._save(taken)
            if should_stop:
                break
            if is_due:
                self._evaluate(taken)
                self._log.begin(taken)
        self._reporter.end()
        return taken

    def is_through(self, taken: int) -> bool:
        """Whether nothing is left to do; a run stopped at its very last step has still to be evaluated."""
        return taken == self._run.total_steps and self._was_evaluated(taken)

    def _until_stopped(self, batches: Iterator[LoadedStep]) -> Iterator[LoadedStep]:
        """The batches; a signal to the whole process group ends the loader's processes first, which is no error."""
        try:
            yield from batches
        except RuntimeError:
            if self._stop.signal is None:
                raise

    def _launch_next(self, batches: Iterator[LoadedStep]) -> bool:
        """Launch a step and end the one before, on all ranks; False, and on none, where any of them is to stop."""
        run, trainer = self._run, self._run.trainer
        loaded = None if self._stop.signal else next(batches, None)
        if loaded is None:
            self._exchange(None, [0.0] * trainer.learner.counted)
            return False
        prepared = trainer.prepare(loaded.batch)
        should_stop, sums = self._exchange(loaded, prepared.counts)
        if should_stop:
            return False
        epoch = loaded.step // run.steps_per_epoch
        with memory_limit_explained(f"step {loaded.step}", _SMALLER_STEP):
            self._log.did(trainer.launch(loaded.step, epoch, prepared, sums))
        self._log.launched(loaded, epoch)
        if self._log.has_line(loaded.step + 1):
            # Few do, and a line that is late would be lost with a run that is killed.
            self._log.did(trainer.settle())
            if run.ranks.is_alone:
                self._log.write(self._log.to_sum())
        self._log.show(loaded.step + 1)
        return True

    def _finish_step(self) -> bool:
        """Wait for the step in flight, and write what there is to write of it; whether any rank is to stop."""
        self._log.did(self._run.trainer.settle())
        return self._exchange(None, [])[0]

    def _exchange(self, loaded: LoadedStep | None, counts: Sequence[float]) -> tuple[bool, list[float]]:
        """The one message of a step: whether any rank is to stop, and the counts summed; logs what all have to tell."""
        ranks, damage = self._run.ranks, () if loaded is None else loaded.damage
        ours = [float(self._stop.signal is not None), float(len(damage)), *counts, *self._log.to_sum()]
        stops, damaged, *sums = ranks.sum(ours)
        if stops:
            self._stop.signal = self._stop.signal or "SIGTERM"
        self._log.write(sums[len(counts) :])
        if damaged and not stops:
            assert loaded is not None, "all ranks are at the same step"
            self._log.write_damage(loaded.step + 1, ranks.gather(damage))
        return bool(stops), sums[: len(counts)]

    def _is_evaluation_due(self, taken: int) -> bool:
        epochs, rest = divmod(taken, self._run.steps_per_epoch)
        return rest == 0 and (epochs % self._run.config.evaluation.every_epochs == 0 or taken == self._run.total_steps)

    def _was_evaluated(self, taken: int) -> bool:
        return any(line["step"] == taken for line in read_log(self._folder.out / LOG_NAME).evaluations)

    def _evaluate(self, taken: int) -> None:
        scores = self._score()
        if scores is not None:
            metrics, aps = scores.metrics, scores.class_aps
            assert aps is not None, "scored by hotcoco"
            # First, since a step that has figures in the log isn't scored again.
            self._log.write_class_aps(aps_of_truth(taken, self._run.truth, aps))
            self._log.write_evaluation(taken, metrics)
            shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items() if is_defined(value))
            self._reporter.say(f"epoch {taken // self._run.steps_per_epoch}: {shown or AP_UNDEFINED}")
            if metrics["AP"] > self._best_ap:
                self._best_ap = metrics["AP"]
                best = self._run.checkpoint(step=taken, best_ap=self._best_ap, with_optimiser=False)
                save_checkpoint(self._folder.best, best)
            # Again, so that a resume knows the best.
            self._save(taken)
        self._run.ranks.wait()

    def _score(self) -> SplitScores | None:
        run = self._run
        return evaluate_split(
            batch_detector(run.scored_detector.eval(), run.config, run.info.class_names, run.ranks.device),
            run.data.val,
            run.truth,
            self._folder.detections,
            config=run.config.evaluation,
            workers=run.config.workers,
            ranks=run.ranks,
            reporter=self._reporter,
        )

    def _save(self, taken: int) -> None:
        if self._run.ranks.is_first:
            state = self._run.checkpoint(step=taken, best_ap=self._best_ap, with_optimiser=True)
            save_checkpoint(self._folder.last, state)
