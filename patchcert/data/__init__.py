"""Images with labels: named data sets, folders of images, augmentation, halves."""
