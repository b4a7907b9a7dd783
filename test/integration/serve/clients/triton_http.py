"""tritonclient[http], the plain and the asynchronous client."""

import time

import numpy as np
import tritonclient.http as http
import tritonclient.http.aio as http_aio
from checks import TASK, array, check, expect, expect_outputs, refused, requests, run, stopped_shards
from tritonclient.utils import InferenceServerException

MODEL = TASK["model"]
client = http.InferenceServerClient(TASK["http"], concurrency=8)


def inputs_of(request, binary=True, module=http):
    inputs = []
    for tensor in request["inputs"]:
        made = module.InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        made.set_data_from_numpy(array(tensor), binary_data=binary)
        inputs.append(made)
    return inputs


def outputs_of(request, binary):
    return [http.InferRequestedOutput(output["name"], binary_data=binary) for output in request["outputs"]]


def infer(request, binary=True, **options):
    return client.infer(request["model"], inputs_of(request, binary), **options)


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
    expect(server["name"], "terabag", "name")
    for extension in TASK["extensions"]:
        expect(extension in server["extensions"], True, extension)
    for version in ("", "1"):
        model = client.get_model_metadata(MODEL, version)
        expect(model["name"], MODEL, "name")
        expect(model["versions"], ["1"], "versions")
        told = {each["name"]: (each["datatype"], each["shape"]) for each in model["inputs"] + model["outputs"]}
        expect(told, {each["name"]: (each["datatype"], each["shape"]) for each in TASK["signature"]}, "tensors")


@check
def config():
    told = client.get_model_config(MODEL)
    expect(told["name"], MODEL, "name")
    expect(told.get("max_batch_size", 0), 0, "max_batch_size")
    types = {each["name"]: each["data_type"] for each in told["input"] + told["output"]}
    expect(types, {each["name"]: f"TYPE_{each['datatype']}" for each in TASK["signature"]}, "tensors")


@check
def every_form_of_a_request():
    for request in TASK["requests"]:
        for binary in (True, False):
            expect_outputs(infer(request, binary).as_numpy, request, "all outputs")
            for binary_output in (True, False):
                result = infer(request, binary, outputs=outputs_of(request, binary_output))
                expect_outputs(result.as_numpy, request, f"binary {binary} to {binary_output}")
                told = [output.get("parameters") or {} for output in result.get_response()["outputs"]]
                expect(["binary_data_size" in each for each in told], [binary_output] * len(told), "binary as asked")


@check
def one_output_of_several():
    request = next(each for each in TASK["requests"] if len(each["outputs"]) > 1)
    last = request["outputs"][-1]
    result = infer(request, outputs=[http.InferRequestedOutput(last["name"])])
    expect([output["name"] for output in result.get_response()["outputs"]], [last["name"]], "names")
    expect_outputs(result.as_numpy, {**request, "outputs": [last]})
    with refused(InferenceServerException, "nothing") as told:
        infer(request, outputs=[http.InferRequestedOutput("nothing")])
    expect(told[0].status(), "400", "status")


@check
def ids_versions_and_parameters():
    request = requests(MODEL)[0]
    result = infer(request, model_version="1", request_id="a-1", priority=1, timeout=5_000_000, parameters={"caller": "test", "n": 1})
    answer = result.get_response()
    expect((answer["id"], answer["model_name"], answer["model_version"]), ("a-1", MODEL, "1"), "said")
    expect_outputs(result.as_numpy, request)
    expect(infer(request).get_response().get("id", ""), "", "no id")
    headers = {"X-Own": "1", "Content-Type": "application/octet-stream"}
    result = infer(request, headers=headers, query_params={"q": [1, "two"]})
    expect_outputs(result.as_numpy, request, "headers")


@check
def compression():
    for asked in (None, "gzip", "deflate"):
        for answered in (None, "gzip", "deflate"):
            for binary in (True, False):
                for request in requests(MODEL):
                    result = infer(
                        request, binary, request_compression_algorithm=asked, response_compression_algorithm=answered
                    )
                    expect_outputs(result.as_numpy, request, f"{asked} {answered}")


@check
def many_at_once():
    running = [
        (request, client.async_infer(request["model"], inputs_of(request), request_id=str(at)))
        for at, request in enumerate(TASK["requests"] * 4)
    ]
    for at, (request, asked) in enumerate(running):
        result = asked.get_result()
        expect(result.get_response()["id"], str(at), "id")
        expect_outputs(result.as_numpy, request)


@check
async def asynchronous():
    async with http_aio.InferenceServerClient(TASK["http"]) as own:
        expect(await own.is_server_live(), True, "live")
        expect(await own.is_server_ready(), True, "ready")
        expect(await own.is_model_ready(MODEL), True, "model")
        expect((await own.get_model_metadata(MODEL))["name"], MODEL, "metadata")
        for request in TASK["requests"]:
            for compression_of in (None, "gzip", "deflate"):
                result = await own.infer(
                    request["model"],
                    inputs_of(request),
                    request_compression_algorithm=compression_of,
                    response_compression_algorithm=compression_of,
                )
                expect_outputs(result.as_numpy, request, str(compression_of))
        with refused(InferenceServerException, "nobody"):
            await own.infer("nobody", inputs_of(TASK["requests"][0]))


@check
def body_made_and_read_apart():
    request = TASK["requests"][0]
    body, header = http.InferenceServerClient.generate_request_body(inputs_of(request))
    response = client._post(
        f"v2/models/{request['model']}/infer", body, {"Inference-Header-Content-Length": header}, None
    )
    length = response.get("Inference-Header-Content-Length")
    result = http.InferenceServerClient.parse_response_body(response.read(), header_length=int(length))
    expect_outputs(result.as_numpy, request)


@check
def statistics():
    def counts(version=""):
        (told,) = client.get_inference_statistics(MODEL, version)["model_stats"]
        expect((told["name"], told["version"]), (MODEL, "1"), "model")
        stats = told["inference_stats"]
        return stats["success"]["count"], stats["fail"]["count"], stats["success"]["ns"], told["inference_count"]

    before = counts()
    for request in requests(MODEL):
        infer(request)
    with refused(InferenceServerException):
        infer({**requests(MODEL)[0], "inputs": []})
    after = counts("1")
    expect(after[0] - before[0], len(requests(MODEL)), "succeeded")
    expect(after[1] - before[1], 1, "failed")
    expect(after[2] > before[2] and after[3] > before[3], True, "time and inferences grow")
    expect(MODEL in [each["name"] for each in client.get_inference_statistics()["model_stats"]], True, "of all models")
    with refused(InferenceServerException, "nobody"):
        client.get_inference_statistics("nobody")


@check
def repository():
    other = TASK["other"]
    request = requests(other)[0]

    def state():
        return {each["name"]: each["state"] for each in client.get_model_repository_index()}

    expect(state()[MODEL], "READY", "state")
    client.load_model(other)
    expect(state()[other], "READY", "state")
    expect(client.is_model_ready(other), True, "loaded")
    expect_outputs(infer(request).as_numpy, request)
    client.unload_model(other)
    # Unloading lets requests in flight end first.
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
    expect(told[0].status() in ("400", "404"), True, f"status {told[0].status()}")


@check
def errors():
    request = requests(MODEL)[0]

    def status_of(words, **changed):
        with refused(InferenceServerException, *words) as told:
            infer({**request, **changed})
        return told[0].status()

    expect(status_of(["nobody"], model="nobody"), "404", "unknown model")
    with refused(InferenceServerException, "9") as told:
        infer(request, model_version="9")
    expect(told[0].status(), "404", "unknown version")
    values = next(each for each in request["inputs"] if each["name"] == "sum.values")
    others = [each for each in request["inputs"] if each["name"] != "sum.values"]
    expect(status_of(["sum.values", "missing"], inputs=others), "400", "missing input")
    unknown = {**values, "name": "nothing"}
    expect(status_of(["nothing"], inputs=[*request["inputs"], unknown]), "400", "unknown input")
    expect(status_of(["sum.values", "twice"], inputs=[*request["inputs"], values]), "400", "given twice")
    wrong = {**values, "datatype": "FP32"}
    expect(status_of(["sum.values", "FP32"], inputs=[*others, wrong]), "400", "datatype")
    outside = {**values, "data": [50] * len(values["data"])}
    expect(status_of(["50"], inputs=[*others, outside]), "400", "id out of range")
    text = http.InferInput("sum.values", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"a"], dtype=np.object_))
    with refused(InferenceServerException, "sum.values", "BYTES") as told:
        client.infer(MODEL, [*inputs_of({"inputs": others}), text])
    expect(told[0].status(), "400", "BYTES")
    for call in (client.get_model_metadata, client.get_model_config):
        with refused(InferenceServerException, "nobody") as told:
            call("nobody")
        expect(told[0].status(), "404", "unknown model")


@check
def unsupported():
    region = http.InferInput("sum.values", [1], "INT64")
    region.set_shared_memory("region", 8)
    calls = [
        lambda: client.register_system_shared_memory("region", "/region", 8),
        lambda: client.register_cuda_shared_memory("region", b"handle", 0, 8),
        lambda: client.update_trace_settings(MODEL, {"trace_level": ["TIMESTAMPS"]}),
        lambda: client.update_log_settings({"log_verbose_level": 1}),
    ]
    for call in calls:
        with refused(InferenceServerException, "support") as told:
            call()
        expect(told[0].status(), "501", str(told[0]))
    with refused(InferenceServerException, "shared memory"):
        client.infer(MODEL, [region])
    with refused(InferenceServerException, "classification"):
        infer(requests(MODEL)[0], outputs=[http.InferRequestedOutput("scores", class_count=1)])


@check
def deadlines():
    request = requests(MODEL)[0]
    for shorter in (1, 100):
        try:
            expect_outputs(infer(request, timeout=shorter).as_numpy, request)
            expect(shorter, 100, "answered within a microsecond")
        except InferenceServerException as error:
            expect("deadline" in str(error), True, str(error))
    with stopped_shards():
        started = time.monotonic()
        with refused(InferenceServerException, "deadline") as told:
            infer(request, timeout=300_000)
        took = time.monotonic() - started
        expect(0.2 < took < 3, True, f"{took} s, {told[0]}")
        expect(client.is_server_live(), True, "live")
    until = time.monotonic() + 20
    while not client.is_server_ready() and time.monotonic() < until:
        time.sleep(0.02)
    # Shards that did not answer are tried again by and by.
    while True:
        try:
            expect_outputs(infer(request, timeout=5_000_000).as_numpy, request, "after")
            return
        except InferenceServerException:
            if time.monotonic() > until:
                raise


run()
