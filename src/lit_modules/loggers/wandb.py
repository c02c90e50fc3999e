"""A logger for Weights & Biases that never asks for a login."""

import atexit
import logging
import netrc
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger
from pytorch_lightning.utilities import rank_zero_only  # pyright: ignore[reportPrivateImportUsage]

from evaluation.analysis import Analysis
from evaluation.truth import CLASSIFICATION_METRICS, COCO_METRICS, PROPOSAL_METRICS, VOC_METRICS
from lit_modules.loggers.forgiven import Forgiven
from lit_modules.loggers.wandb_file import cut
from reports.validation_pictures import Picture

log = logging.getLogger(__name__)


_ANSWER, _UPLOAD = 20.0, 60.0
"""Seconds that W&B's server has to answer at the start, and to take what is left at the end."""


class WandbLogger(LightningWandbLogger):
    """Logs to W&B without asking: without an API key the run is offline, and all files stay in its folder.

    Offline is also a run whose server does not answer at the start, or refuses it. What W&B rejects once the run has
    begun costs a warning, not the run.
    """

    def __init__(
        self,
        folder: str,
        project: str = "boxwright",
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
    ) -> None:
        path = Path(folder)
        chosen = mode or os.environ.get("WANDB_MODE") or ("online" if has_api_key() else "offline")
        if chosen == "online" and not has_api_key():
            raise ValueError(
                f"logger.wandb.mode={mode}, WANDB_MODE={os.environ.get('WANDB_MODE')}: W&B online needs an API key, but"
                " there is none; set WANDB_API_KEY, or run `wandb login` once, or leave the mode out to run offline"
            )
        keep_inside(path)
        identity = path / "wandb_id"
        self._best_step = -1
        self._forgiven = Forgiven("W&B")
        if rank_zero_only.rank == 0:  # pyright: ignore[reportFunctionMemberAccess]
            import wandb

            wandb.finish()  # of the sweep's job before: Lightning would log into its run,
            wandb.teardown()  # and its service would keep its folders
            if not identity.exists():
                identity.write_text(secrets.token_hex(4))
            if chosen == "offline":
                log.info(
                    "W&B: offline in %s (no API key, or offline by choice); `wandb sync` uploads it", path / "wandb"
                )
        super().__init__(
            project=project,
            entity=entity,
            group=group,
            job_type="train",
            tags=list(tags or []),
            name=path.name,
            id=identity.read_text() if identity.exists() else None,
            save_dir=folder,
            mode=chosen,
            resume="allow",
        )
        self._wandb_init.pop("anonymous", None)  # Lightning's default, of which W&B warns

    @property
    def experiment(self) -> Any:
        """W&B's run, once it has begun; a dummy on ranks other than 0."""
        begun: object = cast(Any, self)._experiment
        if begun is None and self._wandb_init["mode"] == "online" and rank_zero_only.rank == 0:  # pyright: ignore[reportFunctionMemberAccess]
            self._begin_online()
        return cast(Any, super().experiment)  # pyright: ignore[reportUnknownMemberType]

    def _begin_online(self) -> None:
        """Begins the run where W&B answers and takes it; else it will be offline, and why is said."""
        import wandb

        self._wandb_init["settings"] = _patience()
        folder = Path(self.save_dir or ".", "wandb")
        before = set(folder.glob("run-*"))
        try:
            super().experiment  # noqa: B018  # pyright: ignore[reportUnknownMemberType, reportUnusedExpression]
        except (wandb.Error, OSError) as error:
            wandb.teardown()
            for left in set(folder.glob("run-*")) - before:
                shutil.rmtree(left, ignore_errors=True)
            self._wandb_init |= {"mode": "offline", "settings": None}
            log.warning(
                "W&B: %s gave no answer in %.0f s, or refused (%s); offline in %s, and `wandb sync` uploads it",
                os.environ.get("WANDB_BASE_URL", "its server"), _ANSWER, _in_a_line(error), folder,
            )  # fmt: skip
        else:
            atexit.register(self._end)

    def _end(self, exit_code: int | None = None) -> None:
        """Ends the run, with what W&B takes of it in time. By itself W&B would wait for its server without end."""
        atexit.unregister(self._end)
        try:
            self._run.finish(exit_code=exit_code)
        except Exception as error:
            if not isinstance(error, TimeoutError):
                log.warning("W&B: %s: %s", type(error).__name__, error)
            log.warning(
                "W&B: not everything was uploaded in %.0f s; all of it is in %s, and `wandb sync` uploads it",
                _UPLOAD, Path(self._run.dir).parent,
            )  # fmt: skip

    @property
    def _run(self) -> Any:
        return self.experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs the config, nested, and asks for each metric's best value in the summary.

        `overrides` are the settings of the command line by key, with `/` for `.`, which W&B would nest.
        """
        overrides = {str(key).replace(".", "/"): value for key, value in params.get("overrides", {}).items()}
        super().log_hyperparams({**params, "overrides": overrides})
        for name in (*COCO_METRICS, *VOC_METRICS, *PROPOSAL_METRICS, *CLASSIFICATION_METRICS):
            self._run.define_metric(f"val/{name}", step_metric="trainer/global_step", summary="max,last")

    @rank_zero_only
    def drop_after(self, step: int) -> None:
        """Cuts off what earlier, offline parts of this run logged after a step, unless it is uploaded; see `cut`."""
        with self._forgiven():
            own = Path(self._run.dir).parent
            for file in Path(self.save_dir or ".", "wandb").glob("offline-run-*/run-*.wandb"):
                if file.parent != own and not file.with_suffix(".wandb.synced").exists():
                    cut(file, step)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        with self._forgiven():
            super().log_metrics(dict(metrics), step)

    @rank_zero_only
    def log_validation(self, analysis: Analysis, shown: Mapping[str, Sequence[Picture]], step: int) -> None:
        """Logs pictures under overlays, tables and curves of a validation."""
        from lit_modules.loggers.wandb_panels import panels  # only now, since it imports wandb

        self.log_metrics(panels(analysis, shown), step)

    @rank_zero_only
    def log_pictures(self, analysis: Analysis, shown: Mapping[str, Sequence[Picture]], step: int) -> None:
        """Logs the pictures alone, between validations."""
        from lit_modules.loggers.wandb_panels import overlays

        pictures = {f"pictures/{role}": overlays(analysis, some) for role, some in shown.items() if some}
        if pictures:
            self.log_metrics(pictures, step)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Writes the metrics of the best checkpoint and its step to the run's summary, as `best/`."""
        best: dict[str, float] = checkpoint_callback.best_metrics
        if best and checkpoint_callback.best_step != self._best_step:
            self._best_step = checkpoint_callback.best_step
            with self._forgiven():
                summary = {f"best/{name}": value for name, value in best.items()}
                self._run.summary.update({**summary, "best/step": self._best_step})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        if status == "failed":  # or the next job of a sweep would end it as a success
            self._end(exit_code=1)


def _patience() -> Any:
    """Limits to W&B's waiting, but for those that the environment sets."""
    import wandb

    limits: dict[str, Any] = {"init_timeout": _ANSWER, "finish_timeout": _UPLOAD, "finish_timeout_raises": True}
    known: Any = getattr(wandb.Settings, "model_fields", limits)  # before 0.31 the end has none
    chosen = {
        name: limit for name, limit in limits.items() if name in known and f"WANDB_{name.upper()}" not in os.environ
    }
    return wandb.Settings(**chosen)


def _in_a_line(error: Exception) -> str:
    """What W&B says, without its advice."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


_folders: dict[str, str] = {}
"""The variables that `keep_inside` has set; anything else in the environment is the user's."""


def keep_inside(folder: Path) -> None:
    """Points W&B's folders into the run's folder, except those that the user has set."""
    for variable, sub in (("DIR", ""), ("CACHE_DIR", "cache"), ("DATA_DIR", "data")):
        name = f"WANDB_{variable}"
        if os.environ.get(name) == _folders.get(name):
            os.environ[name] = _folders[name] = str(folder / "wandb" / sub if sub else folder)
    os.environ.setdefault("WANDB_SILENT", "true")


def has_api_key() -> bool:
    """Whether W&B could log in without asking: an environment variable, or an entry for its host in ~/.netrc.

    Without WANDB_BASE_URL the host is W&B's own or that of a settings file, so any entry with the login "user" counts,
    as `wandb login` writes it.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        entries: dict[str, tuple[str, str, str]] = netrc.netrc(
            Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        ).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    if url := os.environ.get("WANDB_BASE_URL"):
        return urlsplit(url).netloc in entries
    return any(login == "user" for login, _, _ in entries.values())
