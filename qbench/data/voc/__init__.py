"""Pascal VOC: the dataset, its images and its annotations."""
