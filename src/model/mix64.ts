/** The finalizer of splitmix64 (Steele, Lea, Flood 2014), of the 64 bits of an integer; as native/kernels/mix64.h. */
export function mix64(key: bigint): bigint {
  let mixed = BigInt.asUintN(64, key);
  mixed = BigInt.asUintN(64, (mixed ^ (mixed >> 30n)) * 0xbf58476d1ce4e5b9n);
  mixed = BigInt.asUintN(64, (mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn);
  return mixed ^ (mixed >> 31n);
}
