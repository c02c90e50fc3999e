"""Networks, targets, losses and decoders: pure torch, no Lightning, no Hydra.

Letters, the same in every file of the project:

    B images of a batch          H, W padded size in pixels     L pyramid levels
    C channels                   h, w size of one feature map   R points or anchors over all levels
    K classes                    G true boxes (padded)          D detections (padded)     P proposals

Boxes are `xyxy` float pixels of the network input, sizes are (height, width), labels are 0..K-1 and -1
is padding.
"""
