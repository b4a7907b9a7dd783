import { build, decodeFromCompressedBase64, encodeIntoCompressedBase64, type Histogram } from 'hdr-histogram-js';
import { TerabagError } from '../errors.js';

const NS_PER_MS = 1e6;
const LONGEST_NS = 3600e9;
const LAYOUT = {
  lowestDiscernibleValue: 1,
  highestTrackableValue: LONGEST_NS,
  numberOfSignificantValueDigits: 3,
  bitBucketSize: 32,
  useWebAssembly: false,
} as const;

/** What people and JSON readers see of a histogram, milliseconds; null without a sample. */
export interface LatencySummary {
  readonly count: number;
  readonly mean: number | null;
  readonly p50: number | null;
  readonly p90: number | null;
  readonly p99: number | null;
  readonly p999: number | null;
  readonly max: number | null;
}

/**
 * Durations from 1 ns to an hour (longer ones count as an hour) in the buckets of HdrHistogram, 3 significant digits: about 140 KiB,
 * whatever the number of samples. Histograms merge without loss. Milliseconds outside.
 */
export class LatencyHistogram {
  readonly #histogram: Histogram;

  constructor(histogram: Histogram = build(LAYOUT)) {
    this.#histogram = histogram;
  }

  /** Reads what encoded() gave; the text is HdrHistogram's compressed V2 format in base64, which its ports in other languages read too. */
  static decode(text: string): LatencyHistogram {
    try {
      return new LatencyHistogram(decodeFromCompressedBase64(text, LAYOUT.bitBucketSize, false));
    } catch (error) {
      throw new TerabagError('invalid_argument', `not a compressed histogram: ${text.length} characters`, {}, { cause: error });
    }
  }

  /** A negative duration, from a clock read twice within its resolution, counts as 0. */
  record(milliseconds: number): void {
    this.#histogram.recordValue(Math.min(LONGEST_NS, Math.max(0, Math.round(milliseconds * NS_PER_MS))));
  }

  merge(other: LatencyHistogram): void {
    this.#histogram.add(other.#histogram);
  }

  get count(): number {
    return this.#histogram.totalCount;
  }

  /**
   * The smallest sample that at least the share q of all samples do not exceed (nearest rank), rounded up to the end of its bucket: at most
   * 1 / 1024 more. Null without samples.
   */
  quantile(q: number): number | null {
    return this.count === 0 ? null : this.#histogram.getValueAtPercentile(q * 100) / NS_PER_MS;
  }

  summary(): LatencySummary {
    const mean = this.count === 0 ? null : this.#histogram.mean / NS_PER_MS;
    const [p50, p90, p99, p999, max] = [0.5, 0.9, 0.99, 0.999, 1].map((q) => this.quantile(q)) as [number | null, ...(number | null)[]];
    return { count: this.count, mean, p50, p90: p90 ?? null, p99: p99 ?? null, p999: p999 ?? null, max: max ?? null };
  }

  encoded(): string {
    return encodeIntoCompressedBase64(this.#histogram);
  }

  toJSON(): LatencySummary & { readonly hdr: string } {
    return { ...this.summary(), hdr: this.encoded() };
  }
}
