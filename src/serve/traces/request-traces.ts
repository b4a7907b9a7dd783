import {
  context,
  propagation,
  type Span,
  SpanKind,
  SpanStatusCode,
  type Tracer as SpanTracer,
  TraceFlags,
  trace,
} from '@opentelemetry/api';
import type { TracedRequest, TracedRpc } from '../../observe/traced-request.js';
import { Tracer } from '../../observe/tracer.js';
import { SHARD_STAGES, type ShardStage } from '../../rpc/messages.js';
import { SERVER_METADATA } from '../metadata.js';

/** A request as it arrived. */
export interface Arrival {
  readonly protocol: 'http' | 'grpc';
  /** As the client names them. */
  readonly model: string;
  readonly version: string;
  /** Its headers, or metadata: traceparent and the like. */
  readonly headers: Readonly<Record<string, unknown>>;
  /** performance.now(). */
  readonly startedAt: number;
}

/** What came of a request. */
export interface Outcome {
  /** ok, or the code of the error. */
  readonly code: string;
  readonly items: number;
  readonly degraded: boolean;
  readonly message?: string;
}

/** Stages of a shard that follow one another, by the name of their spans; CPU time is none of them. */
const FOLLOWING = SHARD_STAGES.filter((stage): stage is Exclude<ShardStage, 'poolCpuUs'> => stage !== 'poolCpuUs');

/** Spans of a request: those of main's stages, and one for each RPC to a shard. */
const SPANS = 256;

/**
 * Spans of OpenTelemetry of the requests that are sampled, which the SDK decides: one for the request, child of the client's (W3C Trace Context, or what the
 * SDK propagates); below it one for predict, with its stages, and one for each RPC to a shard with what the shard did. Stages are stamped while they run and
 * become spans when the request has ended. Requests that are not sampled cost a call of the SDK.
 */
export class RequestTraces {
  readonly #spans: SpanTracer = trace.getTracer('terabag', SERVER_METADATA.version);
  /** Each keeps one request at a time. */
  readonly #idle: Tracer[] = [];

  /** Null when it is not sampled. */
  start({ protocol, model, version, headers, startedAt }: Arrival): TracedCall | null {
    const parent = propagation.extract(context.active(), headers);
    const attributes = { 'network.protocol.name': protocol, 'terabag.model': model, ...(version !== '' && { 'terabag.version': version }) };
    const span = this.#spans.startSpan('terabag request', { kind: SpanKind.SERVER, startTime: epochMs(startedAt), attributes }, parent);
    if (!span.isRecording()) {
      span.end();
      return null;
    }
    const stages = this.#idle.pop() ?? new Tracer({ capacity: 1, spans: SPANS });
    stages.enabled = true;
    return new TracedCall(span, this.#spans, stages, () => {
      stages.clear();
      stages.enabled = false;
      this.#idle.push(stages);
    });
  }
}

/** A request that is sampled. */
export class TracedCall {
  constructor(
    private readonly span: Span,
    private readonly spans: SpanTracer,
    /** To be handed to predict. */
    readonly stages: Tracer,
    private readonly onEnd: () => void,
  ) {}

  /** The span of the request as the header traceresponse tells it (W3C Trace Context Level 2). */
  get traceresponse(): string {
    const { traceId, spanId, traceFlags } = this.span.spanContext();
    return `00-${traceId}-${spanId}-${(traceFlags & TraceFlags.SAMPLED) === 0 ? '00' : '01'}`;
  }

  end({ code, items, degraded, message }: Outcome): void {
    const { span } = this;
    span.setAttributes({ 'terabag.code': code, 'terabag.items': items, ...(degraded && { 'terabag.degraded': true }) });
    if (code !== 'ok') span.setStatus({ code: SpanStatusCode.ERROR, ...(message !== undefined && { message }) });
    const [request] = this.stages.requests();
    if (request !== undefined) this.#addStages(request);
    span.end();
    this.onEnd();
  }

  #addStages(request: TracedRequest): void {
    const predict = this.#add(this.span, 'predict', request);
    for (const phase of request.phases) this.#add(predict, phase.kind, phase).end(endOf(phase));
    for (const job of request.jobs) {
      const span = this.#add(predict, job.kind, job);
      span.setAttributes({ 'terabag.queued_us': job.queuedUs, 'terabag.ran_us': job.ranUs });
      span.end(endOf(job));
    }
    for (const rpc of request.rpcs) this.#addRpc(predict, rpc);
    predict.end(endOf(request));
  }

  #addRpc(parent: Span, rpc: TracedRpc): void {
    const { shard, batch, round, receivedUs, sentUs, stages } = rpc;
    const span = this.#add(parent, `shard ${shard}`, rpc, SpanKind.CLIENT);
    span.setAttributes({ 'terabag.shard': shard, 'terabag.batch': batch, 'terabag.round': round });
    if (receivedUs === null) span.setStatus({ code: SpanStatusCode.ERROR, message: 'not answered' });
    if (stages !== null && sentUs !== null && receivedUs !== null) {
      // The shard's clock is another one: what was not its work was the way there and back.
      const worked = FOLLOWING.reduce((sum, stage) => sum + stages[stage], 0);
      let startUs = sentUs + Math.max(0, receivedUs - sentUs - worked) / 2;
      for (const stage of FOLLOWING) {
        const interval = { startUs, endUs: startUs + stages[stage] };
        this.#add(span, `${shard} ${stage.replace(/Us$/, '')}`, interval, SpanKind.SERVER).end(endOf(interval));
        startUs = interval.endUs;
      }
    }
    span.end(endOf(rpc));
  }

  #add(parent: Span, name: string, { startUs }: { readonly startUs: number }, kind = SpanKind.INTERNAL): Span {
    return this.spans.startSpan(name, { kind, startTime: epochMs(startUs / 1000) }, trace.setSpan(context.active(), parent));
  }
}

/** Of performance.now(). */
const epochMs = (ms: number): number => performance.timeOrigin + ms;
const endOf = ({ endUs }: { readonly endUs: number }): number => epochMs(endUs / 1000);
