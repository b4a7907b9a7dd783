/** MLPs as lists of dims, input first, and the batches that they run. */
export const fcNets: readonly { readonly name: string; readonly dims: readonly number[] }[] = [
  { name: 'bottom-small', dims: [13, 512, 256, 64] },
  { name: 'top-small', dims: [415, 512, 512, 256, 1] },
  { name: 'square', dims: [1024, 1024] },
  { name: 'top-large', dims: [479, 1024, 1024, 512, 256, 1] },
];

export const fcBatches: readonly number[] = [1, 8, 32, 128, 2048];
