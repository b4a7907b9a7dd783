"""kserve's REST client."""

import httpx
from checks import TASK, array, check, expect, expect_outputs, refused, requests, run, stopped_shards
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODEL = TASK["model"]
URL = f"http://{TASK['http']}"


def client():
    return InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=20))


def infer_request(request, binary=True, request_id=None, **options):
    inputs = []
    for tensor in request["inputs"]:
        made = InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        made.set_data_from_numpy(array(tensor), binary_data=binary)
        inputs.append(made)
    return InferRequest(model_name=request["model"], infer_inputs=inputs, request_id=request_id, **options)


def numpy_of(answer):
    return lambda name: answer.get_output_by_name(name).as_numpy()


@check
async def health():
    async with client() as own:
        expect(await own.is_server_live(URL), True, "live")
        expect(await own.is_server_ready(URL), True, "ready")
        expect(await own.is_model_ready(URL, MODEL), True, "model")
        expect(await own.is_model_ready(URL, "nobody"), False, "other model")


@check
async def every_form_of_a_request():
    async with client() as own:
        for request in TASK["requests"]:
            for binary in (True, False):
                answer = await own.infer(URL, infer_request(request, binary), model_name=request["model"])
                expect_outputs(numpy_of(answer), request, f"binary {binary}")
                for binary_output in (True, False):
                    outputs = [RequestedOutput(each["name"], {"binary_data": binary_output}) for each in request["outputs"]]
                    asked = infer_request(request, binary, request_outputs=outputs)
                    answer = await own.infer(URL, asked, model_name=request["model"])
                    expect_outputs(numpy_of(answer), request, f"binary {binary} to {binary_output}")


@check
async def a_dictionary():
    request = requests(MODEL)[0]
    inputs = [
        {**tensor, "data": array(tensor).flatten().tolist()} for tensor in request["inputs"]
    ]
    async with client() as own:
        answer = await own.infer(URL, {"id": "d", "inputs": inputs}, model_name=MODEL)
        expect((answer.id, answer.model_name), ("d", MODEL), "said")
        expect_outputs(numpy_of(answer), request)


@check
async def ids_and_parameters():
    request = requests(MODEL)[0]
    async with client() as own:
        told = {}
        asked = infer_request(request, request_id="k-1", parameters={"caller": "test", "binary_data_output": True})
        answer = await own.infer(URL, asked, model_name=MODEL, headers={"x-own": "1"}, response_headers=told)
        expect((answer.id, answer.model_name), ("k-1", MODEL), "said")
        expect_outputs(numpy_of(answer), request)
        expect("inference-header-content-length" in told, True, "binary")


@check
async def errors():
    request = requests(MODEL)[0]
    async with client() as own:
        with refused(httpx.HTTPStatusError, "nobody", "404 Not Found"):
            await own.infer(URL, infer_request({**request, "model": "nobody"}), model_name="nobody")
        others = [each for each in request["inputs"] if each["name"] != "sum.values"]
        for binary in (True, False):
            with refused(httpx.HTTPStatusError, "sum.values", "missing", "400 Bad Request"):
                await own.infer(URL, infer_request({**request, "inputs": others}, binary), model_name=MODEL)


@check
async def deadlines():
    request = requests(MODEL)[0]
    async with client() as own:
        with stopped_shards():
            with refused(httpx.HTTPStatusError, "deadline"):
                await own.infer(URL, infer_request(request, parameters={"timeout": 300_000}), model_name=MODEL)
            with refused(httpx.TimeoutException):
                asked = infer_request(request, parameters={"timeout": 10_000_000})
                await own.infer(URL, asked, model_name=MODEL, timeout=0.2)
            expect(await own.is_server_live(URL), True, "live")
        for _ in range(200):
            try:
                answer = await own.infer(URL, infer_request(request), model_name=MODEL)
                break
            except httpx.HTTPStatusError:
                pass
        expect_outputs(numpy_of(answer), request, "after")


run()
