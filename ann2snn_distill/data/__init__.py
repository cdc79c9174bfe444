"""Images and labels: data sets by name or folder, augmentation, and batches on the device."""
