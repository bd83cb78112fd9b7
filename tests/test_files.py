"""Files: free names, atomic writes."""

from pathlib import Path

from sb3_carracing.files import next_free


def test_next_free_never_names_a_file_that_exists(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        file = next_free(tmp_path / "evaluation.json")
        file.touch()
        names.append(file.name)
    assert names == ["evaluation.json", "evaluation_2.json", "evaluation_3.json"]
