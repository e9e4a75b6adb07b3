"""Images with labels: named data sets, folders of pictures, augmentation, halves."""
