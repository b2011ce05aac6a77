"""The rules that every overlay must keep. Each returns a sentence for each manifest that breaks it."""

import re
from collections.abc import Callable, Iterator
from functools import cache

import kubernetes_validate

from contracts import access, topics
from documents.kubernetes import kafka, network, scaling, workloads
from documents.kubernetes.cluster import Cluster, Workload
from documents.kubernetes.parts import COMPONENT, NAME, NAMESPACE, PART_OF, Manifest, all_processes
from documents.kubernetes.policies import Pods, Policies, selects
from local import nginx
from shared.delivery.schema import LANES
from shared.process.tasks import DRAIN_ALL_SECONDS
from shared.service import LINGER_SECONDS
from shared.web import application

VERSION = "1.36"
"""The release of Kubernetes whose schemas check the manifests of Kubernetes' own kinds."""
CUSTOM = {
    "kafka.strimzi.io/v1": {"Kafka", "KafkaNodePool", "KafkaTopic", "KafkaUser"},
    "postgresql.cnpg.io/v1": {"Cluster", "ScheduledBackup"},
    "barmancloud.cnpg.io/v1": {"ObjectStore"},
    "keda.sh/v1alpha1": {"ScaledObject"},
    "cert-manager.io/v1": {"Certificate"},
    "gateway.networking.k8s.io/v1": {"Gateway", "HTTPRoute"},
    "monitoring.coreos.com/v1": {"PodMonitor", "PrometheusRule"},
}
"""The kinds of the operators. Only an API server has their schemas: `make manifests` asks one."""
BY_OPERATORS = {
    *("postgres-superuser", "postgres-ca", "kafka-cluster-ca-cert"),
    *(f"kafka-{user}" for user in access.USERS),
}
BY_PEOPLE = {
    *(
        f"database-{section}"
        for section in ("orders", "inventory", "payments", "provider", "auth", "users", "products")
    ),
    *("admin", "backups"),
}
"""The Secrets that somebody makes before the first `kubectl apply -k` of production."""
RESERVED_CONNECTIONS = 20
"""For the superuser, the migrations and the copies of Postgres."""

Rule = Callable[[Cluster], Iterator[str]]


def complaints(cluster: Cluster, *, production: bool) -> list[str]:
    """Everything that is wrong with an overlay."""
    rules = [*EVERYWHERE, *(IN_PRODUCTION if production else [])]
    return [f"{rule.__name__.replace('_', ' ')}: {found}" for rule in rules for found in rule(cluster)]


def schemas(cluster: Cluster) -> Iterator[str]:
    for one in cluster.manifests:
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] in CUSTOM.get(one["apiVersion"], ()):
            continue
        try:
            kubernetes_validate.validate(one, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name}: {error.message}"
        except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError):
            yield f"{name}: {one['apiVersion']} has no such kind"


def namespaces(cluster: Cluster) -> Iterator[str]:
    for one in cluster.manifests:
        if one["kind"] != "Namespace" and one["metadata"].get("namespace") != NAMESPACE:
            yield f"{one['kind']} {one['metadata']['name']} is not in {NAMESPACE}"
    for workload in cluster.workloads:
        if not PART_OF.items() <= workload.labels.items():
            yield f"pods of {workload.name} have no label {PART_OF}"


def images(cluster: Cluster) -> Iterator[str]:
    """A release is named by its version or its digest: `latest` may be another one tomorrow."""
    for workload in cluster.workloads:
        for container in workload.containers:
            image = container["image"]
            if not re.search(r"@sha256:[0-9a-f]{64}$|:(?!latest$)[\w.-]+$", image):
                yield f"{workload.name} runs {image}"


def restricted_pods(cluster: Cluster) -> Iterator[str]:
    for workload in cluster.workloads:
        pod = workload.pod
        wanted = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        if not wanted.items() <= pod.get("securityContext", {}).items():
            yield f"{workload.name} may run as root, or without seccomp"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{workload.name} gets a token of the API server"
        if pod.get("enableServiceLinks") is not False:
            yield f"{workload.name} gets variables of all Services"
        for container in workload.containers:
            if not workloads.RESTRICTED.items() <= container.get("securityContext", {}).items():
                yield f"{container['name']} of {workload.name} is not restricted"


def resources(cluster: Cluster) -> Iterator[str]:
    for workload in cluster.workloads:
        for container in workload.containers:
            found = container.get("resources", {})
            if not ({"cpu", "memory"} <= found.get("requests", {}).keys() and "memory" in found.get("limits", {})):
                yield f"{container['name']} of {workload.name} has no requests, or no limit of memory"


def probes(cluster: Cluster) -> Iterator[str]:
    """Every process is asked on a route that it has."""
    for workload in cluster.workloads:
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = workload.main.get(kind)
            if workload.kind == "Job":
                continue
            if probe is None:
                yield f"{workload.name} has no {kind}"
                continue
            path, port = probe["httpGet"]["path"], workload.port(probe["httpGet"]["port"])
            if path not in routes(workload):
                yield f"{workload.name} has no route {path} for its {kind}"
            if port is None:
                yield f"{workload.name} has no port {probe['httpGet']['port']} for its {kind}"


@cache
def _common_routes() -> frozenset[str]:
    return frozenset(one.canonical for one in application.create().router.resources())


def routes(workload: Workload) -> frozenset[str]:
    """The routes that answer without a token. The console and the storefront have those of every process too."""
    if workload.labels[NAME] == "gateway":
        return frozenset(re.findall(r"location = (/healthz) ", nginx.TEMPLATE.read_text()))
    return _common_routes()


def grace(cluster: Cluster) -> Iterator[str]:
    """A pod is killed only after its drain."""
    for workload in cluster.workloads:
        if workload.kind == "Job":
            continue
        before = workload.main.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = before + LINGER_SECONDS + DRAIN_ALL_SECONDS
        if workload.pod.get("terminationGracePeriodSeconds", 30) < needed:
            yield f"{workload.name} needs {needed:.0f} s to end"
        takes_requests = workload.labels.get(COMPONENT, "api") == "api" and workload.name != "console"
        if takes_requests and not before:
            yield f"{workload.name} ends while others still send it requests"


def services(cluster: Cluster) -> Iterator[str]:
    for one in cluster.of_kind("Service"):
        for port in one["spec"]["ports"]:
            if cluster.behind(one["metadata"]["name"], port["port"]) is None:
                yield f"{one['metadata']['name']} leads to no pod at port {port['port']}"


def arrows(cluster: Cluster) -> Iterator[str]:
    """Every address in the settings of a pod can be reached."""
    policies = Policies(cluster.manifests)
    for workload in cluster.workloads:
        for host, port in sorted(set(cluster.addresses(workload))):
            found = cluster.behind(host, port)
            if found is None:
                yield f"{workload.name} uses {host}:{port}, which no Service has"
            elif not policies.allow(Pods(workload.labels), *found):
                yield f"no policy lets {workload.name} reach {host}:{port}"


def outside(cluster: Cluster) -> Iterator[str]:
    """Who may connect from other namespaces: Prometheus to all metrics, the Gateway to the gateway, nobody else."""
    policies = Policies(cluster.manifests)
    allowed = {(one.source, one.target) for one in network.arrows() if one.source in network.OUTSIDE}
    named = {workload.name: workload for workload in cluster.workloads if workload.port("http")}
    for source, namespace in {**network.OUTSIDE, "others": "default"}.items():
        for name, workload in named.items():
            port = workload.port("http") or 0
            may = policies.allow(Pods({}, namespace), Pods(workload.labels), port)
            if may != ((source, name) in allowed):
                yield f"{source} may{'' if may else ' not'} reach {name}"


def access_to_kafka(cluster: Cluster) -> Iterator[str]:
    """Topics, users and rules are those of the code: no rule more, and none fewer."""
    wanted = {one["metadata"]["name"]: one for one in kafka.manifests() if one["kind"] == "KafkaUser"}
    found = {one["metadata"]["name"]: one for one in cluster.of_kind("KafkaUser")}
    for user in sorted(wanted.keys() ^ found.keys()):
        yield f"the user {user} is {'missing' if user in wanted else 'unknown'}"
    for user in sorted(wanted.keys() & found.keys()):
        rules, known = _acls(found[user]), _acls(wanted[user])
        yield from (f"{user} lacks {one}" for one in known if one not in rules)
        yield from (f"{user} has {one}" for one in rules if one not in known)
        if found[user]["spec"].get("authentication", {}).get("type") != "scram-sha-512":
            yield f"{user} has no password"
    names = {one["metadata"]["name"] for one in cluster.of_kind("KafkaTopic")}
    yield from (f"the topic {name} is missing" for name in topics.configurations().keys() - names)
    for one in cluster.of_kind("Kafka"):
        if one["spec"]["kafka"].get("authorization", {}).get("type") != "simple":
            yield "Kafka asks nobody for a right"
        for listener in one["spec"]["kafka"]["listeners"]:
            if listener.get("networkPolicyPeers") != network.kafka_clients():
                yield f"others than the clients reach the listener {listener['name']}"


def _acls(user: Manifest) -> list[str]:
    return [
        f"{one['operations'][0]} {one['resource']['type']} {one['resource']['name']}"
        for one in user["spec"].get("authorization", {}).get("acls", [])
    ]


def secrets(cluster: Cluster) -> Iterator[str]:
    """Every Secret that a pod needs is made by an operator or by a person, and has a name that is known."""
    known = BY_OPERATORS | BY_PEOPLE
    for workload in cluster.workloads:
        for name in sorted(set(_secrets(workload)) - known):
            yield f"{workload.name} needs {name}, which nobody makes"


def _secrets(workload: Workload) -> Iterator[str]:
    for volume in workload.pod.get("volumes", []):
        sources = [volume, *volume.get("projected", {}).get("sources", [])]
        yield from (one["secret"].get("name") or one["secret"]["secretName"] for one in sources if "secret" in one)
    for container in workload.containers:
        yield from (one["secretRef"]["name"] for one in container.get("envFrom", []) if "secretRef" in one)
        for one in container.get("env", []):
            if "secretKeyRef" in one.get("valueFrom", {}):
                yield one["valueFrom"]["secretKeyRef"]["name"]


def scaled(cluster: Cluster) -> Iterator[str]:
    """No more pods than have something to do, and one owner of their number."""
    partitions = min((one["spec"]["partitions"] for one in cluster.of_kind("KafkaTopic")), default=0)
    for one in cluster.of_kind("ScaledObject"):
        name, most = one["spec"]["scaleTargetRef"]["name"], one["spec"]["maxReplicaCount"]
        deployment = cluster.named("Deployment", name)
        if deployment is None:
            yield f"there is no Deployment {name}"
            continue
        bound = {"relay": LANES, "consumer": partitions}.get(deployment["metadata"]["labels"][COMPONENT], most)
        if most > bound:
            yield f"{name} may have {most} pods, and only {bound} have something to do"
        if "replicas" in deployment["spec"]:
            yield f"{name} has a number of pods, and a ScaledObject has another"


def connections(cluster: Cluster) -> Iterator[str]:
    """Postgres accepts the connections of all pods, with one more of each Deployment during a rollout."""
    pods = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]["maxReplicaCount"] for one in cluster.of_kind("ScaledObject")
    }
    needed = RESERVED_CONNECTIONS
    for process in all_processes():
        needed += (pods.get(process.name, 1) + 1) * scaling.connections(process)
    for one in cluster.of_kind("Cluster"):
        most = int(one["spec"]["postgresql"]["parameters"]["max_connections"])
        if needed > most:
            yield f"Postgres accepts {most}, and the pods may need {needed}"


def disk(cluster: Cluster) -> Iterator[str]:
    """New orders are refused before the disk of Postgres is full."""
    limits = [
        float(one["data"].get("MAX_DATABASE_GIGABYTES", 0)) for one in cluster.of_kind("ConfigMap") if one["data"]
    ]
    limit = max(limits, default=0.0)
    for one in cluster.of_kind("Cluster"):
        size = float(one["spec"]["storage"]["size"].removesuffix("Gi")) * 2**30 / 1e9
        if not 0 < limit <= 0.8 * size:
            yield f"orders may fill {limit:g} GB, and Postgres has {size:.1f} GB"


def budgets(cluster: Cluster) -> Iterator[str]:
    """A node that is emptied never ends all pods of a Deployment at once."""
    for workload in cluster.workloads:
        if workload.kind != "Deployment" or workload.name == "console":
            continue
        chosen = [
            one for one in cluster.of_kind("PodDisruptionBudget") if selects(one["spec"]["selector"], workload.labels)
        ]
        if [one["spec"].get("maxUnavailable") for one in chosen] != [1]:
            yield f"{workload.name} has {len(chosen)} budgets"


def copies(cluster: Cluster) -> Iterator[str]:
    """A machine may be lost: three copies of every record, two of them written; Postgres with synchronous copies."""
    for one in cluster.of_kind("KafkaTopic"):
        name, spec = one["metadata"]["name"], one["spec"]
        if spec["replicas"] < 3:
            yield f"the topic {name} has {spec['replicas']} copies"
        if spec["config"].get("min.insync.replicas") != "2":
            yield f"the topic {name} accepts a record that one broker has"
    for one in cluster.of_kind("Kafka"):
        config = one["spec"]["kafka"]["config"]
        wanted = {name: 3 for name in config if name.endswith("replication.factor")}
        wanted |= {"min.insync.replicas": 2, "transaction.state.log.min.isr": 2}
        yield from (
            f"Kafka has {name}={config.get(name)}" for name, value in wanted.items() if config.get(name) != value
        )
    for role in ("broker", "controller"):
        if sum(one["spec"]["replicas"] for one in cluster.of_kind("KafkaNodePool") if role in one["spec"]["roles"]) < 3:
            yield f"there are fewer than three nodes with the role {role}"
    for one in cluster.of_kind("Cluster"):
        synchronous = one["spec"]["postgresql"].get("synchronous", {})
        if one["spec"]["instances"] < 3 or synchronous.get("dataDurability") != "required":
            yield "Postgres has no two copies, or does not wait for one"
        if not one["spec"].get("plugins"):
            yield "Postgres has no backups"


def no_passwords(cluster: Cluster) -> Iterator[str]:
    yield from (f"{one['metadata']['name']} is in the manifests" for one in cluster.of_kind("Secret"))


def at_least_two(cluster: Cluster) -> Iterator[str]:
    scaled_by = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]["minReplicaCount"] for one in cluster.of_kind("ScaledObject")
    }
    for workload in cluster.workloads:
        count = scaled_by.get(workload.name, workload.manifest["spec"].get("replicas", 1))
        if workload.kind == "Deployment" and workload.name != "console" and count < 2:
            yield f"{workload.name} may have {count} pods"


EVERYWHERE: list[Rule] = [
    *(schemas, namespaces, images, restricted_pods, resources, probes, grace, services, arrows, outside),
    *(access_to_kafka, secrets, scaled, connections, disk),
]
IN_PRODUCTION: list[Rule] = [copies, no_passwords, at_least_two, budgets]
