"""What scripts start: training, certifying, attacking, each as its options describe it."""
