// lm336/schedule.py in the page: the learning rate of a step.
export function cosineSchedule(step, maxRate, minRate, warmupSteps, cosineSteps) {
  if (step < warmupSteps) return maxRate * step / warmupSteps;
  if (step === warmupSteps) return maxRate;
  if (step >= cosineSteps) return minRate;
  const progress = (step - warmupSteps) / (cosineSteps - warmupSteps);
  return minRate + 0.5 * (maxRate - minRate) * (1 + Math.cos(Math.PI * progress));
}
