"""The deployment kit: every command in it is one that prefloop reads, every name in it leads somewhere, and the proxies serve a studio that works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution, packages_distributions, requires
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from packaging.requirements import Requirement

from prefloop.cli.commands import find, load
from prefloop.cli.flags import read_flags
from prefloop.configs.load import load_config
from prefloop.studio import accounts, serve
from prefloop.studio.security import Hosts
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings
from tests.studio.live import served
from tests.studio.test_prefix import free_port
from tests.studio.web import PASSWORD, client_of

KIT = Path(__file__).parents[2] / "deploy"
COMPOSE = yaml.safe_load((KIT / "compose.yaml").read_text())
TRAINING = yaml.safe_load((KIT / "compose.train.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((KIT / "kubernetes" / "studio.yaml").read_text()))
_DOCKERFILE = (KIT / "Dockerfile").read_text()
_TRAIN = (KIT / "train.Dockerfile").read_text()


def manifest(kind: str) -> Any:
    return next(each for each in MANIFESTS if each["kind"] == kind)


def container(kind: str) -> Any:
    spec = manifest(kind)["spec"]
    return (spec if kind == "Deployment" else spec["jobTemplate"]["spec"])["template"]["spec"]["containers"][
        0
    ]


def commands() -> list[tuple[str, list[str]]]:
    """File and arguments of every prefloop command in the kit."""
    found = [
        ("Dockerfile", yaml.safe_load(re.findall(r"^CMD (\[.*\])$", _DOCKERFILE, re.MULTILINE)[-1])),
        ("compose.yaml", COMPOSE["services"]["studio"]["command"]),
        *(("compose.train.yaml", service["command"]) for service in TRAINING["services"].values()),
        ("studio.yaml", container("Deployment")["args"]),
    ]
    for path in sorted(path for path in KIT.rglob("*") if path.is_file()):
        # Lines that begin with it, in comments too; the shell's own words around it are not its arguments.
        for line in re.findall(r"^(?:[# ]|ExecStart=.*?(?=/opt))*(?:/opt/prefloop/bin/)?prefloop ((?:label|engine) .*)", path.read_text(), re.MULTILINE):  # fmt: skip
            found.append((path.name, shlex.split(line.rstrip("'").replace("$(", "").replace(")", ""))))
    return found


def test_there_are_commands() -> None:
    assert len(commands()) == 13


@pytest.mark.parametrize(("file", "command"), commands())
def test_commands_are_what_the_command_line_reads(file: str, command: list[str]) -> None:
    _, known, rest = find([re.sub(r"\$\{(\w+)[^}]*\}", r"\1", part) for part in command])
    settings = load(known.settings)
    flags = read_flags(rest, settings, positional=known.positional)
    load_config(settings, "", flags.given)


def test_compose_names_what_is_there() -> None:
    services = COMPOSE["services"]
    assert set(services["studio"]["depends_on"]) | set(services["backup"]["depends_on"]) == {"db"}
    named = {
        each.partition(":")[0]
        for service in services.values()
        for each in service.get("volumes", ())
        if not each.startswith(".")
    }
    assert named == set(COMPOSE["volumes"])
    mounted = [
        each for service in services.values() for each in service.get("volumes", ()) if each.startswith(".")
    ]
    assert mounted
    assert all((KIT / each.partition(":")[0]).is_file() for each in mounted)
    build = services["studio"]["build"]
    assert (KIT / build["context"] / build["dockerfile"]).samefile(KIT / "Dockerfile")
    assert services["proxy"]["environment"]["STUDIO"] == "studio:8100"
    for name in ("studio", "backup"):  # YAML's merge took
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["environment"]["PGPASSWORD"]


def test_the_training_services_go_with_the_studios() -> None:
    """The trainer asks the engine that is there, starts from what it serves, and records in the studio's database."""
    engine, trainer = TRAINING["services"]["engine"], TRAINING["services"]["trainer"]
    assert set(trainer["depends_on"]) <= {*COMPOSE["services"], "engine"}
    assert f"--model={engine['command'][2].partition(':')[0]}}}" in trainer["command"]
    assert "--sampling.engine=http://engine:8000" in trainer["command"]
    assert "--dtype=bfloat16" in engine["command"]
    assert "--compute.dtype=bfloat16" in trainer["command"]
    store = next(word for word in COMPOSE["services"]["studio"]["command"] if word.startswith("--store="))
    assert f"--run.{store.removeprefix('--')}" in trainer["command"]
    assert engine["volumes"] == trainer["volumes"] == [f"{name}:/prefloop" for name in TRAINING["volumes"]]
    build = engine["build"]
    assert (KIT / build["context"] / build["dockerfile"]).samefile(KIT / "train.Dockerfile")


def test_only_the_proxy_is_reached_from_outside() -> None:
    assert [name for name, service in COMPOSE["services"].items() if "ports" in service] == ["proxy"]


def test_what_the_image_copies_is_sent_to_the_builder() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", _DOCKERFILE + _TRAIN, re.MULTILINE)
    ignore = (KIT.parent / ".dockerignore").read_text().splitlines()
    for name in (name for line in copied for name in line.split()):
        assert (KIT.parent / name).exists(), name
        assert f"!{name}" in ignore
    assert "USER 10001" in _DOCKERFILE


def test_manifests_name_what_is_there() -> None:
    pod = manifest("Deployment")["spec"]["template"]
    assert pod["metadata"]["labels"] == manifest("Service")["spec"]["selector"]
    ports = {port["name"]: port["containerPort"] for port in container("Deployment")["ports"]}
    assert ports == {"http": 8100, "metrics": int(pod["metadata"]["annotations"]["prometheus.io/port"])}
    backend = manifest("Ingress")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    service = manifest("Service")
    assert backend == {
        "name": service["metadata"]["name"],
        "port": {"name": service["spec"]["ports"][0]["name"]},
    }
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in manifest("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claims == [manifest("PersistentVolumeClaim")["metadata"]["name"]]
    assert container("Deployment")["image"] == container("CronJob")["image"]


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_are_answered_by_a_server_that_knows_its_name_only(studio: Studio, probe: str) -> None:
    asked = container("Deployment")[probe]["httpGet"]
    address = serve.Address(host="0.0.0.0", port=8100, public="https://label.example.org")
    headers = {each["name"]: each["value"] for each in asked["httpHeaders"]}
    hosts = Hosts.of(*address.names(), numbers=address.by_number)
    client = client_of(studio, public_url=address.public, hosts=hosts)
    assert client.get(asked["path"], headers=headers).status_code == 200
    assert client.get(asked["path"], headers={"host": "10.0.0.7:8100"}).status_code == 421


def _closure(names: list[str]) -> set[str]:
    """Those distributions and what they need."""
    found: set[str] = set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        found.add(name)
        for text in requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                names.append(needed.name)
    return found


def test_the_image_has_what_the_studio_needs(tmp_path: Path) -> None:
    """The studio's requirements are some of the project's, and with nothing else installed a project is made and shown, and the store backed up."""
    lines = [line for line in (KIT / "studio-requirements.txt").read_text().splitlines() if line[:1] != "#"]
    given = {Requirement(line).name.lower() for line in lines}
    project = tomllib.loads((KIT.parent / "pyproject.toml").read_text())["project"]
    own = [
        *project["dependencies"],
        *(
            need
            for extra in ("postgres", "sso", "images")
            for need in project["optional-dependencies"][extra]
        ),
    ]
    needed = {Requirement(text).name.lower() for text in own}
    assert given <= needed
    assert {"torch", "transformers", "peft"}.isdisjoint(given)
    allowed = {"prefloop", *_closure(list(given))}
    modules = sorted(
        module
        for module, owners in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & allowed
        and module not in sys.stdlib_module_names
    )
    assert "torch" in modules
    assert distribution("torch")  # it is here, and kept out
    code = f"""
import sys
for name in {modules!r}:
    sys.modules[name] = None
import asyncio
import httpx
from prefloop.cli import main
from prefloop.data.store import Store
from prefloop.studio.app import make_app
from prefloop.studio.service import Studio
from prefloop.studio.telemetry import counting, set_up_logs
where = sys.argv[1] + "/prefloop.db"
set_up_logs(json=True)
async def first_page(app):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        return await client.get("/login")
with Store.open(where) as store:
    app = make_app(Studio(store), watches=[counting()])
    assert "Sign in" in asyncio.run(first_page(app)).text
for command in (["label", "serve", "--help"], ["label", "import", sys.argv[2], "--store", where, "--project", "first"],
                ["label", "project", "archive", "first", "--store", where],
                ["label", "backup", "--store", where, "--out", sys.argv[1] + "/backup.db"]):
    assert main(command) == 0, command
"""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(rows)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "backup.db").is_file()


@contextmanager
def proxy(command: list[str], at: str, told: Path, **environment: str) -> Iterator[None]:
    """A proxy in the foreground, from when it answers at that address."""
    with told.open("w") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            env={"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(told.parent), **environment},
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(at, verify=False)
                break
            except httpx.TransportError:
                assert process.poll() is None, told.read_text()
                assert time.monotonic() < deadline, told.read_text()
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


def use(base: str, path: str, studio: Studio, login: str) -> None:
    """Sign in through a proxy, import a file that is larger than a proxy's own limit, and sign out."""
    accounts.add_person(studio, login, PASSWORD, "admin")
    project = studio.create_project(ProjectSettings(name=f"project of {login}")).id
    with httpx.Client(verify=False, base_url=base) as client:
        page = client.get(f"{path}/login")
        assert page.headers["content-security-policy"]
        token = re.findall(r'name="form_token" value="([^"]+)"', page.text)[0]
        form = {"form_token": token, "login": login, "password": PASSWORD}
        done = client.post(f"{path}/login", data=form)
        assert done.status_code == 303, done.text
        assert done.headers["location"].startswith(f"{path}/")
        secure = base.startswith("https")
        assert ("Secure" in done.headers["set-cookie"]) == secure
        home = client.get(f"{path}/admin")
        assert home.status_code == 200
        csrf = re.findall(r'name="csrf" value="([^"]+)"', home.text)[0]
        rows = b'{"prompt": "p", "chosen": "%s", "rejected": "b"}\n' % (b"a" * 2**21)
        sent = client.post(
            f"{path}/api/v1/projects/{project}/import",
            files={"file": ("rows.jsonl", rows)},
            headers={"x-csrf-token": csrf},
        )
        assert sent.status_code == 200, sent.text
        style = client.get(f"{path}/static/studio.css")
        assert style.status_code == 200


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed (apt-get install caddy)")
@pytest.mark.parametrize(("file", "path"), [("Caddyfile", ""), ("Caddyfile.prefix", "/label")])
def test_caddy(studio: Studio, tmp_path: Path, file: str, path: str) -> None:
    base = f"http://127.0.0.1:{free_port()}"
    with served(studio, public_url=f"{base}{path}") as target:
        command = ["caddy", "run", "--config", str(KIT / "caddy" / file), "--adapter", "caddyfile"]
        with proxy(
            command,
            base,
            tmp_path / "log",
            SITE=base,
            STUDIO=target.removeprefix("http://"),
            CADDY_ADMIN="off",
        ):
            use(base, path, studio, "boss")
            if path:
                assert "other pages" in httpx.get(f"{base}/elsewhere").text
                assert "other pages" in httpx.get(f"{base}/labelled").text


@pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin") is None or shutil.which("openssl") is None,
    reason="nginx or openssl is not installed (apt-get install nginx-light openssl)",
)
@pytest.mark.parametrize(("file", "path"), [("site.conf", ""), ("prefix.conf", "/label")])
def test_nginx(studio: Studio, tmp_path: Path, file: str, path: str) -> None:
    port, plain = free_port(), free_port()
    base = f"https://127.0.0.1:{port}"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", "key.pem", "-out", "certificate.pem", "-days", "2", "-subj", "/CN=127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    with served(studio, public_url=f"{base}{path}") as target:
        site = (KIT / "nginx" / file).read_text()
        for pattern, value in (
            (r"listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            (r"listen 80", f"listen 127.0.0.1:{plain}"),
            (r"\S+/fullchain\.pem", str(tmp_path / "certificate.pem")),
            (r"\S+/privkey\.pem", str(tmp_path / "key.pem")),
            (r"http://127\.0\.0\.1:8100", target),
        ):
            site = re.sub(pattern, value, site)
        (tmp_path / "nginx.conf").write_text(
            f"{'user root;' if os.getuid() == 0 else ''} daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{ access_log off; client_body_temp_path {tmp_path}/body;\n{site} }}\n"
        )
        command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
        with proxy(command, base, tmp_path / "log"):
            use(base, path, studio, "boss")
            if path:
                assert "other pages" in httpx.get(f"{base}/labelled", verify=False).text
                assert httpx.get(f"{base}/label", verify=False).headers["location"].endswith("/label/")
            else:
                moved = httpx.get(f"http://127.0.0.1:{plain}/login")
                assert moved.headers["location"] == "https://127.0.0.1/login"


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed (apt-get install systemd)",
)
def test_units(tmp_path: Path) -> None:
    units = []
    for path in sorted((KIT / "systemd").iterdir()):
        unit = tmp_path / path.name
        unit.write_text(path.read_text().replace("/opt/prefloop/bin/prefloop", "/bin/true"))
        units.append(str(unit))
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "prefloop" in line]
    assert ours == []
