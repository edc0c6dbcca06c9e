"""GradRatio, LossGap and the verdict on a run."""
