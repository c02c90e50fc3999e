import torch

from detectors.boxes import box_areas, boxes_to_distances, clip_boxes, distances_to_boxes


def test_distances_are_left_top_right_bottom() -> None:
    distances = boxes_to_distances(torch.tensor([[4.0, 12.0]]), torch.tensor([[1.0, 2.0, 10.0, 20.0]]))
    assert distances.tolist() == [[3.0, 10.0, 6.0, 8.0]]


def test_boxes_come_back_from_distances_of_every_image() -> None:
    points = torch.rand(5, 2) * 50
    boxes = torch.cat((points - torch.rand(3, 5, 2) * 9, points + torch.rand(3, 5, 2) * 9), dim=-1)
    torch.testing.assert_close(distances_to_boxes(points, boxes_to_distances(points, boxes)), boxes)


def test_clipping_cuts_at_width_and_height_and_empties_what_is_outside() -> None:
    boxes = torch.tensor([[-5.0, 2.0, 30.0, 40.0], [25.0, -9.0, 40.0, -1.0], [1.0, 2.0, 3.0, 4.0]])
    clipped = clip_boxes(boxes, torch.tensor([10, 20]))
    assert clipped.tolist() == [[0.0, 2.0, 20.0, 10.0], [20.0, 0.0, 20.0, 0.0], [1.0, 2.0, 3.0, 4.0]]
    assert box_areas(clipped).tolist() == [160.0, 0.0, 4.0]


def test_clipping_takes_one_size_an_image() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 9.0, 9.0]], [[0.0, 0.0, 9.0, 9.0]]])
    clipped = clip_boxes(boxes, torch.tensor([[4, 5], [6, 7]])[:, None])
    assert clipped.tolist() == [[[0.0, 0.0, 5.0, 4.0]], [[0.0, 0.0, 7.0, 6.0]]]
