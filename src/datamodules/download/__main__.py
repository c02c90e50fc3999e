"""`python -m datamodules.download coco2017 --root /data/coco`, see `command`."""

import sys

from datamodules.download.command import main

if __name__ == "__main__":
    sys.exit(main())
