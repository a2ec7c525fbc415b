"""Ray Serve's port, which asks for no token: who gets in, by which Ingress or Gateway, and what is said of it."""

from __future__ import annotations

import pytest
import yaml

from tests.helm.test_service import applications_for
from tests.support.helm import CHART, SERVICE_CHART, Helm, HelmError, tool

CHARTS = [CHART, SERVICE_CHART]
SERVE = 8000
SHOP = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}
TLS = [{"hosts": ["ray.example.com"], "secretName": "cert"}]
INGRESS = {"enabled": True, "hosts": [{"host": "ray.example.com"}], "tls": TLS}
GATEWAY = {
    "enabled": True,
    "className": "istio",
    "hosts": ["ray.example.com"],
    "certificateRefs": [{"name": "cert"}],
    "namespaces": ["istio-ingress"],
}


@pytest.fixture(params=[("helm3", CHART), ("helm4", SERVICE_CHART)], ids=lambda pair: pair[1].name)
def render(request, tmp_path):
    """Each chart by one Helm: the templates are the same, and tests/apiserver compares the Helms."""
    name, chart = request.param
    helm = Helm(tool(name), tmp_path)
    return lambda values=None: helm.template({**applications_for(chart), **(values or {})}, chart=chart)


@pytest.fixture(params=CHARTS, ids=lambda path: path.name)
def notes(request, helm4, tmp_path):
    def said(values):
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump({**applications_for(request.param), **values}))
        return helm4.run("install", "demo", request.param, "--dry-run=client", "-n", "ray", "-f", file)

    return said


def let_in(objects, side, port=SERVE):
    """Who may reach a port, beside the cluster's own pods."""
    (policy,) = [o for o in objects.kind("NetworkPolicy") if o["metadata"]["name"].endswith(f"-ray-{side}")]
    rules = [rule for rule in policy["spec"]["ingress"] if port in [p["port"] for p in rule.get("ports", [])]]
    return [peer for rule in rules for peer in rule["from"]]


def kinds(peers):
    """Name the peers that the chart makes itself."""
    found = []
    for peer in peers:
        text = str(peer)
        known = {"kuberay-operator": "operator", "konnectivity-agent": "api server", "ipBlock": "address"}
        found.append(next((name for mark, name in known.items() if mark in text), peer))
    return found


def test_nobody_reaches_serve_but_the_operator_and_the_api_servers_proxy(render):
    """KubeRay asks the head's proxy whether it is well; a proxy of the API server asks for a right of Kubernetes."""
    objects = render()
    assert kinds(let_in(objects, "head")) == ["api server", "operator"]
    assert kinds(let_in(objects, "worker")) == ["api server"]
    closed = render({"serve": {"allowApiServer": False}})
    assert kinds(let_in(closed, "head")) == ["operator"]
    assert let_in(closed, "worker") == []
    # The other ports stay for the namespace.
    assert {"podSelector": {}} in let_in(closed, "head", 8265)
    assert {"podSelector": {}} in let_in(closed, "worker", 8080)


def test_who_is_named_reaches_serve_on_all_pods_and_nothing_else(render):
    objects = render({"serve": {"allowFrom": [SHOP], "allowApiServer": False}})
    assert kinds(let_in(objects, "head")) == [SHOP, "operator"]
    assert let_in(objects, "worker") == [SHOP]
    for port in (8265, 10001, 8080):
        assert SHOP not in let_in(objects, "head", port)


def test_another_port_and_the_addresses_of_the_api_server(render):
    objects = render(
        {
            "serve": {"port": "9000", "allowFrom": [SHOP]},
            "networkPolicy": {"apiServer": {"konnectivity": False, "cidrs": ["10.1.0.0/28"]}},
        }
    )
    assert let_in(objects, "worker", 9000) == [SHOP, {"ipBlock": {"cidr": "10.1.0.0/28"}}]
    assert let_in(objects, "worker") == []


def test_ports_that_are_named_for_all_peers_are_theirs(render):
    objects = render({"networkPolicy": {"headPorts": [8265, 8000], "workerPorts": [8000]}})
    assert {"podSelector": {}} in let_in(objects, "head")
    assert {"podSelector": {}} in let_in(objects, "worker")


def test_an_ingress_of_the_dashboard_that_leads_to_serve_gets_there(render):
    objects = render({"ingress": {"enabled": True, "port": 8000, "hosts": [{"host": "a"}]}})
    assert any("ingress-nginx" in str(peer) for peer in let_in(objects, "head"))


def service_of(objects):
    return "demo-kuberay-serve-svc" if objects.kind("RayService") else "demo-kuberay-head-svc"


def test_an_ingress_has_a_certificate_and_its_controller_gets_in(render):
    objects = render({"serve": {"ingress": {**INGRESS, "className": "nginx", "annotations": {"a": 1}}}})
    ingress = objects.one("Ingress", "demo-kuberay-serve")
    assert ingress["metadata"]["annotations"] == {"a": "1"}
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"] == TLS
    (rule,) = ingress["spec"]["rules"]
    backend = {"service": {"name": service_of(objects), "port": {"number": SERVE}}}
    assert rule == {
        "host": "ray.example.com",
        "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
    }
    for side in ("head", "worker"):
        assert any("ingress-nginx" in str(peer) for peer in let_in(objects, side))


@pytest.mark.parametrize("tls", [[{"hosts": ["*.example.com"], "secretName": "c"}], [{"secretName": "c"}]])
def test_a_certificate_may_be_of_all_hosts_of_a_domain_or_of_any(render, tls):
    assert render({"serve": {"ingress": {**INGRESS, "tls": tls}}}).one("Ingress")["spec"]["tls"] == tls


@pytest.mark.parametrize("tls", [[], [{"hosts": ["other.example.com"], "secretName": "c"}]])
def test_an_ingress_without_a_certificate_is_refused_unless_by_name(render, tls):
    values = {**INGRESS, "tls": tls}
    with pytest.raises(HelmError, match=r"serve\.ingress\.tls: names no certificate for ray\.example\.com.*PlainHttp"):
        render({"serve": {"ingress": values}})
    assert render({"serve": {"ingress": {**values, "allowPlainHttp": True}}}).one("Ingress")


def test_a_gateway_of_its_own_ends_tls_and_leads_to_serve(render):
    objects = render({"serve": {"gateway": {**GATEWAY, "hosts": ["a.example.com", "b.example.com"]}}})
    gateway = objects.one("Gateway")["spec"]
    assert gateway["gatewayClassName"] == "istio"
    assert [(one["hostname"], one["port"], one["protocol"]) for one in gateway["listeners"]] == [
        ("a.example.com", 443, "HTTPS"),
        ("b.example.com", 443, "HTTPS"),
    ]
    assert all(one["tls"]["certificateRefs"] == [{"name": "cert"}] for one in gateway["listeners"])
    route = objects.one("HTTPRoute")["spec"]
    assert route["parentRefs"] == [{"name": objects.one("Gateway")["metadata"]["name"]}]
    assert route["hostnames"] == ["a.example.com", "b.example.com"]
    (rule,) = route["rules"]
    assert rule["backendRefs"] == [{"name": service_of(objects), "port": SERVE}]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert any("istio-ingress" in str(peer) for peer in let_in(objects, "worker"))


def test_a_route_joins_gateways_that_are_there(render):
    parent = {"name": "public", "namespace": "infra", "sectionName": "https"}
    given = {"enabled": True, "parentRefs": [parent], "hosts": ["ray.example.com"], "paths": ["/shop"]}
    objects = render({"serve": {"gateway": given}})
    assert objects.kind("Gateway") == []
    route = objects.one("HTTPRoute")["spec"]
    assert route["parentRefs"] == [parent]
    assert route["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": "/shop"}}]


@pytest.mark.parametrize(
    ("gateway", "said"),
    [
        ({"hosts": []}, r"serve\.gateway\.hosts: is needed"),
        ({"className": ""}, r"serve\.gateway\.className: or serve\.gateway\.parentRefs is needed"),
        ({"parentRefs": [{"name": "x"}]}, r"serve\.gateway\.className: .* not both"),
        ({"certificateRefs": []}, r"serve\.gateway\.certificateRefs: is needed"),
    ],
)
def test_a_gateway_that_lacks_something_is_refused(helm4, gateway, said):
    with pytest.raises(HelmError, match=said):
        helm4.template({"serve": {"gateway": {**GATEWAY, **gateway}}})


def test_nothing_of_it_is_made_unless_asked_for(render):
    objects = render()
    assert [objects.kind(kind) for kind in ("Ingress", "Gateway", "HTTPRoute")] == [[], [], []]


# ---------------------------------------------------------------- what the notes say


def test_the_notes_say_who_gets_in(notes):
    text = notes({})
    assert "That port asks for no token. The network policy lets in who is named in serve.allowFrom (nobody)" in text
    assert "WARNING" not in text
    assert "serve.allowFrom (1)" in notes({"serve": {"allowFrom": [SHOP]}})


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"networkPolicy": {"enabled": False}}, "Every pod of every namespace can reach the head, and call what is"),
        ({"networkPolicy": {"workerPorts": [8000]}}, "8000 is among networkPolicy.headPorts or workerPorts"),
        ({"serve": {"allowFrom": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}}, "serve.allowFrom names 0.0.0.0/0"),
        ({"serve": {"ingress": INGRESS}}, "serve.ingress is on: whoever reaches it can call what is served"),
        ({"serve": {"gateway": GATEWAY}}, "serve.gateway is on"),
        ({"service": {"type": "LoadBalancer"}}, "service.type is LoadBalancer"),
    ],
    ids=["no policy", "port", "everybody", "ingress", "gateway", "load balancer"],
)
def test_the_notes_warn_where_it_is_open(notes, values, warning):
    text = notes(values)
    assert f"WARNING: {warning}" in text or f"WARNING: there is no network policy. {warning}" in text
    assert text.count("WARNING") == 1
