"""tritonclient[grpc], the plain and the asynchronous client, with streams."""

import queue
import threading
import time

import tritonclient.grpc as grpc
import tritonclient.grpc.aio as grpc_aio
from checks import TASK, array, check, expect, expect_outputs, refused, requests, run, stopped_shards
from tritonclient.utils import InferenceServerException

MODEL = TASK["model"]
client = grpc.InferenceServerClient(TASK["grpc"])


def inputs_of(request):
    inputs = []
    for tensor in request["inputs"]:
        made = grpc.InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        made.set_data_from_numpy(array(tensor))
        inputs.append(made)
    return inputs


def infer(request, **options):
    return client.infer(request["model"], inputs_of(request), **options)


@check
def health():
    expect(client.is_server_live(), True, "live")
    expect(client.is_server_ready(), True, "ready")
    expect(client.is_model_ready(MODEL), True, "model")
    expect(client.is_model_ready(MODEL, "1"), True, "version")
    expect(client.is_model_ready(MODEL, "2"), False, "other version")
    expect(client.is_model_ready("nobody"), False, "other model")


@check
def metadata():
    server = client.get_server_metadata()
    expect(server.name, "terabag", "name")
    for version in ("", "1"):
        model = client.get_model_metadata(MODEL, version)
        expect((model.name, list(model.versions)), (MODEL, ["1"]), "model")
        told = {each.name: (each.datatype, list(each.shape)) for each in [*model.inputs, *model.outputs]}
        expect(told, {each["name"]: (each["datatype"], each["shape"]) for each in TASK["signature"]}, "tensors")
    expect(client.get_model_metadata(MODEL, as_json=True)["name"], MODEL, "as JSON")


@check
def config():
    told = client.get_model_config(MODEL).config
    expect((told.name, told.max_batch_size), (MODEL, 0), "model")
    names = [each.name for each in [*told.input, *told.output]]
    expect(names, [each["name"] for each in TASK["signature"]], "tensors")
    types = client.get_model_config(MODEL, as_json=True)["config"]["input"]
    wanted = [f"TYPE_{each['datatype']}" for each in TASK["signature"]]
    expect([each["data_type"] for each in types], wanted[: len(types)], "types")


@check
def every_form_of_a_request():
    for request in TASK["requests"]:
        expect_outputs(infer(request).as_numpy, request, "all outputs")
        asked = [grpc.InferRequestedOutput(output["name"]) for output in request["outputs"]]
        expect_outputs(infer(request, outputs=asked).as_numpy, request, "named outputs")


@check
def one_output_of_several():
    request = next(each for each in TASK["requests"] if len(each["outputs"]) > 1)
    last = request["outputs"][-1]
    result = infer(request, outputs=[grpc.InferRequestedOutput(last["name"])])
    expect([output.name for output in result.get_response().outputs], [last["name"]], "names")
    expect_outputs(result.as_numpy, {**request, "outputs": [last]})
    with refused(InferenceServerException, "nothing") as told:
        infer(request, outputs=[grpc.InferRequestedOutput("nothing")])
    expect(told[0].status(), "StatusCode.INVALID_ARGUMENT", "status")


@check
def ids_versions_and_parameters():
    request = requests(MODEL)[0]
    parameters = {"caller": "test", "n": 1, "x": 0.5, "yes": True}
    result = infer(request, model_version="1", request_id="a-1", priority=1, timeout=5_000_000, parameters=parameters)
    answer = result.get_response()
    expect((answer.id, answer.model_name, answer.model_version), ("a-1", MODEL, "1"), "said")
    expect_outputs(result.as_numpy, request)
    expect(infer(request).get_response().id, "", "no id")
    expect_outputs(infer(request, headers={"x-own": "1"}).as_numpy, request, "headers")


@check
def compression():
    for algorithm in ("gzip", "deflate"):
        for request in TASK["requests"]:
            expect_outputs(infer(request, compression_algorithm=algorithm).as_numpy, request, algorithm)


@check
def many_at_once():
    answers = queue.Queue()
    asked = TASK["requests"] * 4
    for at, request in enumerate(asked):
        client.async_infer(
            request["model"],
            inputs_of(request),
            lambda result, error, request=request, at=at: answers.put((at, request, result, error)),
            request_id=str(at),
        )
    seen = set()
    for _ in asked:
        at, request, result, error = answers.get(timeout=20)
        expect(error, None, request["what"])
        expect(result.get_response().id, str(at), "id")
        expect_outputs(result.as_numpy, request)
        seen.add(at)
    expect(len(seen), len(asked), "answers")


@check
def a_stream():
    answers = queue.Queue()
    own = grpc.InferenceServerClient(TASK["grpc"])
    own.start_stream(lambda result, error: answers.put((result, error)))
    asked = {str(at): request for at, request in enumerate(TASK["requests"] * 2)}
    for name, request in asked.items():
        own.async_stream_infer(request["model"], inputs_of(request), request_id=name)
    for _ in range(len(asked)):
        result, error = answers.get(timeout=20)
        expect(error, None, "error")
        request = asked.pop(result.get_response().id)
        expect_outputs(result.as_numpy, request, "streamed")
    # A request that is refused is told, and the stream goes on.
    own.async_stream_infer("nobody", inputs_of(TASK["requests"][0]), request_id="no")
    result, error = answers.get(timeout=20)
    expect(result, None, "result")
    expect("nobody" in error.message(), True, error.message())
    request = TASK["requests"][0]
    own.async_stream_infer(request["model"], inputs_of(request), request_id="last", enable_empty_final_response=True)
    result, error = answers.get(timeout=20)
    expect(error, None, "error")
    expect_outputs(result.as_numpy, request, "after an error")
    own.stop_stream()
    # The stream had one answer for each request, and ended well.
    expect(answers.qsize(), 0, "more answers")
    own.close()


@check
def a_stream_cancelled():
    answers = queue.Queue()
    own = grpc.InferenceServerClient(TASK["grpc"])
    own.start_stream(lambda result, error: answers.put((result, error)))
    with stopped_shards():
        own.async_stream_infer(MODEL, inputs_of(requests(MODEL)[0]), timeout=10_000_000)
        time.sleep(0.1)
        own.stop_stream(cancel_requests=True)
    result, error = answers.get(timeout=20)
    expect((result, error.status()), (None, "StatusCode.CANCELLED"), "cancelled")
    own.close()
    answered_again()


def answered_again():
    """Shards that did not answer are tried again by and by."""
    request = requests(MODEL)[0]
    until = time.monotonic() + 20
    while True:
        try:
            expect_outputs(infer(request, timeout=5_000_000).as_numpy, request, "after")
            return
        except InferenceServerException:
            if time.monotonic() > until:
                raise


@check
async def asynchronous():
    async with grpc_aio.InferenceServerClient(TASK["grpc"]) as own:
        expect(await own.is_server_live(), True, "live")
        expect(await own.is_server_ready(), True, "ready")
        expect(await own.is_model_ready(MODEL), True, "model")
        expect((await own.get_model_metadata(MODEL)).name, MODEL, "metadata")
        for request in TASK["requests"]:
            result = await own.infer(request["model"], inputs_of(request))
            expect_outputs(result.as_numpy, request)

        async def asked():
            for at, request in enumerate(TASK["requests"]):
                yield {"model_name": request["model"], "inputs": inputs_of(request), "request_id": str(at)}

        seen = set()
        async for result, error in own.stream_infer(asked()):
            expect(error, None, "error")
            at = int(result.get_response().id)
            expect_outputs(result.as_numpy, TASK["requests"][at], "streamed")
            seen.add(at)
        expect(len(seen), len(TASK["requests"]), "answers")
        with refused(InferenceServerException, "nobody"):
            await own.infer("nobody", inputs_of(TASK["requests"][0]))


@check
def statistics():
    def counts(version=""):
        (told,) = client.get_inference_statistics(MODEL, version).model_stats
        expect((told.name, told.version), (MODEL, "1"), "model")
        stats = told.inference_stats
        return stats.success.count, stats.fail.count, stats.success.ns, told.inference_count

    before = counts()
    for request in requests(MODEL):
        infer(request)
    with refused(InferenceServerException):
        infer({**requests(MODEL)[0], "inputs": []})
    after = counts("1")
    expect(after[0] - before[0], len(requests(MODEL)), "succeeded")
    expect(after[1] - before[1], 1, "failed")
    expect(after[2] > before[2] and after[3] > before[3], True, "time and inferences grow")
    expect(MODEL in [each.name for each in client.get_inference_statistics().model_stats], True, "of all models")
    with refused(InferenceServerException, "nobody"):
        client.get_inference_statistics("nobody")


@check
def repository():
    other = TASK["other"]
    request = requests(other)[0]

    def state():
        return {each.name: each.state for each in client.get_model_repository_index().models}

    expect(state()[MODEL], "READY", "state")
    client.load_model(other)
    expect(state()[other], "READY", "state")
    expect_outputs(infer(request).as_numpy, request)
    client.unload_model(other)
    until = time.monotonic() + 20
    while state()[other] == "READY" and time.monotonic() < until:
        time.sleep(0.02)
    expect(state()[other], "UNAVAILABLE", "state")
    expect(client.is_model_ready(other), False, "unloaded")
    with refused(InferenceServerException, other):
        infer(request)
    client.load_model(other)
    expect_outputs(infer(request).as_numpy, request)
    with refused(InferenceServerException, "nobody") as told:
        client.load_model("nobody")
    expect(told[0].status(), "StatusCode.NOT_FOUND", "status")


@check
def errors():
    request = requests(MODEL)[0]

    def status_of(words, **changed):
        with refused(InferenceServerException, *words) as told:
            infer({**request, **changed})
        return told[0].status()

    expect(status_of(["nobody"], model="nobody"), "StatusCode.NOT_FOUND", "unknown model")
    with refused(InferenceServerException, "9") as told:
        infer(request, model_version="9")
    expect(told[0].status(), "StatusCode.NOT_FOUND", "unknown version")
    values = next(each for each in request["inputs"] if each["name"] == "sum.values")
    others = [each for each in request["inputs"] if each["name"] != "sum.values"]
    invalid = "StatusCode.INVALID_ARGUMENT"
    expect(status_of(["sum.values", "missing"], inputs=others), invalid, "missing input")
    unknown = {**values, "name": "nothing"}
    expect(status_of(["nothing"], inputs=[*request["inputs"], unknown]), invalid, "unknown input")
    expect(status_of(["sum.values", "FP32"], inputs=[*others, {**values, "datatype": "FP32"}]), invalid, "datatype")
    outside = {**values, "data": [50] * len(values["data"])}
    with refused(InferenceServerException, "50"):
        infer({**request, "inputs": [*others, outside]})
    for call in (client.get_model_metadata, client.get_model_config):
        with refused(InferenceServerException, "nobody") as told:
            call("nobody")
        expect(told[0].status(), "StatusCode.NOT_FOUND", "unknown model")


@check
def unsupported():
    region = grpc.InferInput("sum.values", [1], "INT64")
    region.set_shared_memory("region", 8)
    calls = [
        lambda: client.register_system_shared_memory("region", "/region", 8),
        lambda: client.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 8),
        lambda: client.update_trace_settings(MODEL, {"trace_level": ["TIMESTAMPS"]}),
        lambda: client.update_log_settings({"log_verbose_level": 1}),
    ]
    for call in calls:
        with refused(InferenceServerException) as told:
            call()
        expect(told[0].status(), "StatusCode.UNIMPLEMENTED", str(told[0]))
    with refused(InferenceServerException, "shared memory"):
        client.infer(MODEL, [region])
    with refused(InferenceServerException, "classification"):
        infer(requests(MODEL)[0], outputs=[grpc.InferRequestedOutput("scores", class_count=1)])


@check
def deadlines():
    request = requests(MODEL)[0]
    with refused(InferenceServerException, "deadline") as told:
        infer(request, timeout=1)
    expect(told[0].status(), "StatusCode.DEADLINE_EXCEEDED", str(told[0]))
    with stopped_shards():
        for options in ({"timeout": 300_000}, {"client_timeout": 0.3}):
            started = time.monotonic()
            with refused(InferenceServerException) as told:
                infer(request, **options)
            took = time.monotonic() - started
            expect(told[0].status(), "StatusCode.DEADLINE_EXCEEDED", str(told[0]))
            expect(0.2 < took < 3, True, f"{took} s")
        # A call that its caller gives up.
        done = threading.Event()
        errors_told = []

        def ended(result, error):
            errors_told.append(error)
            done.set()

        call = client.async_infer(MODEL, inputs_of(request), ended, timeout=10_000_000)
        time.sleep(0.1)
        call.cancel()
        expect(done.wait(5), True, "cancelled")
        expect(errors_told[0].status(), "StatusCode.CANCELLED", "status")
        expect(client.is_server_live(), True, "live")
    answered_again()


run()
