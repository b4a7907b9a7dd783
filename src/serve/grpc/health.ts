import {
  type handleServerStreamingCall,
  type ServerWritableStream,
  status as Status,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { TerabagError } from '../../errors.js';
import type { Serving } from '../serving.js';
import { jsonHandler, readMessage, writeMessage } from './call.js';
import type { OpenCalls } from './open-calls.js';
import { Health, HealthCheckResponseSchema } from './proto/health_pb.js';
import { GRPCInferenceService } from './proto/open_inference_pb.js';
import type { ReceivedMessage } from './received.js';
import { callStatus, statusOf } from './status.js';

type ServingStatus = 'SERVING' | 'NOT_SERVING' | 'SERVICE_UNKNOWN';

/** How often what is watched is looked at. */
const PERIOD_MS = 200;

/** Services that may be asked for. A kubelet asks for liveness by its name, since it would start a server anew that only waits for shards. */
const READY_SERVICES: ReadonlySet<string> = new Set(['', 'readiness', GRPCInferenceService.typeName]);
const LIVE_SERVICE = 'liveness';

/** The methods of grpc.health.v1.Health: SERVING is what readiness is elsewhere. */
export function healthMethods(serving: Serving, open: OpenCalls): UntypedServiceImplementation {
  const statusOfService = (service: string): ServingStatus => {
    if (service === LIVE_SERVICE) return 'SERVING';
    if (!READY_SERVICES.has(service)) return 'SERVICE_UNKNOWN';
    return serving.ready ? 'SERVING' : 'NOT_SERVING';
  };
  return {
    Check: jsonHandler(Health.method.check, ({ service }) => {
      const status = statusOfService(service);
      if (status !== 'SERVICE_UNKNOWN') return { status };
      throw new TerabagError('not_found', `no service is named ${JSON.stringify(service.slice(0, 100))}`);
    }),
    Watch: watchHandler(statusOfService, open),
  };
}

function watchHandler(
  statusOfService: (service: string) => ServingStatus,
  open: OpenCalls,
): handleServerStreamingCall<ReceivedMessage, Buffer> {
  const watching = new Set<() => void>();
  let timer: NodeJS.Timeout | null = null;
  const watch = (call: ServerWritableStream<ReceivedMessage, Buffer>, service: string): void => {
    let told: ServingStatus | null = null;
    const tell = (): void => {
      const status = statusOfService(service);
      // One that does not read is told of the latest change only.
      if (status === told || call.writableNeedDrain) return;
      told = status;
      call.write(writeMessage(HealthCheckResponseSchema, { status }));
    };
    const end = (): void => {
      closed();
      watching.delete(tell);
      if (watching.size > 0 || timer === null) return;
      clearInterval(timer);
      timer = null;
    };
    const closed = open.add(() => {
      tell();
      end();
      call.emit('error', callStatus(Status.UNAVAILABLE, 'the server is closing', 'draining'));
    });
    call.once('cancelled', end);
    watching.add(tell);
    timer ??= setInterval(() => {
      for (const each of watching) each();
    }, PERIOD_MS).unref();
    tell();
  };
  return (call) => {
    call.request
      .use((message) => readMessage(Health.method.watch.input, message))
      .then(
        ({ service }) => watch(call, service),
        (error: unknown) => void call.emit('error', statusOf(error)),
      );
  };
}
