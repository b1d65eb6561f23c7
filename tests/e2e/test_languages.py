"""The whole path on documents in other languages, with a scripted writer and a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedfit.config import resolve
from embedfit.errors import CheckFailed
from embedfit.llm.protocol import Request
from embedfit.path.artefacts import Passage, Query
from embedfit.path.pipeline import run_all
from embedfit.path.workspace import Workspace
from embedfit.retrieval.words import count
from embedfit.runtime import Runtime
from embedfit.testing.fake_model import FakeModel

DEVICES = ("水泵", "洗衣机", "空调", "锅炉", "电梯", "投影仪", "打印机", "咖啡机", "缝纫机", "除湿机")
TASKS = {
    "清洗过滤网": "每三个月必须先关闭电源再取出过滤网，用温水冲洗后晾干，否则风量会明显下降并且产生异味",
    "更换密封圈": "发现漏水时应立即停机，拆下外壳的四颗螺丝，把旧密封圈取下，涂上硅脂后装入新的密封圈",
    "排除错误代码": "显示屏出现错误代码时按住复位键五秒钟，如果指示灯仍然闪烁，请联系售后人员并提供机身编号",
    "长期存放": "长期不用时应排空积水，拔下插头，把机身放在干燥通风的地方，并且盖上防尘罩",
}


def documents(folder: Path) -> Path:
    folder.mkdir()
    for device in DEVICES:
        parts = [f"## {device}{task}\n\n关于{device}的{task}：{text}。" for task, text in TASKS.items()]
        (folder / f"{device}.md").write_text(f"# {device}使用说明\n\n" + "\n\n".join(parts), "utf-8")
    return folder


def write_query(request: Request) -> str:
    text = request.messages[-1].content.rsplit("Passage:", 1)[-1].rsplit("<passage>", 1)[-1]
    device = next(device for device in DEVICES if device in text)
    task = next((task for task in TASKS if task in text), "使用")
    return f"怎样给{device}{task}？" if "Question" in text else f"{device} {task} 步骤"


@pytest.mark.slow
def test_chinese_documents_go_the_whole_way(tiny_bert: Path, tmp_path: Path) -> None:
    config = resolve(
        preset="offline",
        overrides={
            "docs": [str(documents(tmp_path / "docs"))],
            "model": str(tiny_bert),
            "train": {"epochs": 1, "batch_size": 8},
            "merge": {"steps": 2},
            "evaluate": {"bootstrap": 100},
        },
    )
    runtime = Runtime(ledger=tmp_path / "ledger.sqlite", language_model=FakeModel(write_query))
    workspace = Workspace(tmp_path / "run")
    try:
        run_all(workspace, config, runtime)
    except CheckFailed:
        pass  # a random model may well fail the check
    passages, queries = workspace.read(Passage), workspace.read(Query)
    assert len(passages) >= len(DEVICES) and all(count(passage.text) > 10 for passage in passages)
    kept = [query for query in queries if query.kept]
    assert len(kept) >= len(passages) / 2
    assert not any(query.reason.startswith(("too short", "round trip", "in another")) for query in queries)
    summary = json.loads(workspace.path("summary.json").read_text("utf-8"))
    assert summary["systems"]["bm25"]["metrics"]["ndcg@10"] >= 0.6  # some passages lack their heading
    assert "import embedfit\n" in workspace.path("report.html").read_text("utf-8")
