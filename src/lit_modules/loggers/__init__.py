"""Where the curves go: a CSV file always, Weights & Biases by default."""

from lit_modules.loggers.csv_file import CSVLogger as CSVLogger
from lit_modules.loggers.wandb import WandbLogger as WandbLogger
