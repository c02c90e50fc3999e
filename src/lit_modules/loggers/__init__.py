"""Loggers of the curves: a CSV file always, Weights & Biases by default, others if chosen."""

from lit_modules.loggers.csv_file import CSVLogger as CSVLogger
from lit_modules.loggers.mlflow import MLflowLogger as MLflowLogger
from lit_modules.loggers.tensorboard import TensorBoardLogger as TensorBoardLogger
from lit_modules.loggers.wandb import WandbLogger as WandbLogger
