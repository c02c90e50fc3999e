"""COCO and VOC metrics of predictions and truth. Knows no model and no trainer.

Letters: N images of a split, M true boxes over all images, D predictions over all images, K classes.
"""
