"""GradRatio, LossGap and the verdict on a run; the spectrum of a large Hessian."""
