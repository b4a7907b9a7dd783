/** Whether there is no NaN and no infinity. Four sums, since each addition waits for the one before it of the same sum. */
export function isFinite32(values: Float32Array): boolean {
  let [sum0, sum1, sum2, sum3] = [0, 0, 0, 0];
  const end = values.length - (values.length % 4);
  for (let at = 0; at < end; at += 4) {
    // 0 of a finite number, else NaN.
    sum0 += (values[at] as number) * 0;
    sum1 += (values[at + 1] as number) * 0;
    sum2 += (values[at + 2] as number) * 0;
    sum3 += (values[at + 3] as number) * 0;
  }
  for (let at = end; at < values.length; at++) sum0 += (values[at] as number) * 0;
  return sum0 + sum1 + sum2 + sum3 === 0;
}
