"""The rule of `cat_jax.teacher.alignment` once more, by sets of characters and from its words alone."""


def places(spans, count, length, has_end, is_cut):
    """A set of characters for each of the first `count` of `spans` [(start, end)], and for the end if there is one."""
    sets = [set(range(start, end)) for start, end in spans[:count]]
    begins = [start for start, _ in spans[:count]]
    if has_end and not is_cut:
        sets.append({length})
        begins.append(length)
    covered = set().union(*sets) if sets else set()
    kept = max([*begins, *(character + 1 for character in covered)], default=0) if is_cut else length
    for character in range(kept):
        if character not in covered and sets:
            later = [i for i, begin in enumerate(begins) if begin > character]
            sets[later[0] if later else -1].add(character)
    last = length if has_end and not is_cut else length - 1
    for i, own in enumerate(sets):
        if not own:
            own.add(max(min(begins[i], last), 0))
    return sets


def align(teacher, right, teacher_unknown, student, student_unknown):
    """Bits of the student's places from those of the teacher's."""
    known = [bit and not unknown for bit, unknown in zip(right, teacher_unknown, strict=True)]

    def is_right(character):
        return all(bit for own, bit in zip(teacher, known, strict=True) if character in own)

    bits = []
    for i, own in enumerate(student):
        twins = [j for j, theirs in enumerate(teacher) if theirs == own]
        same = [j for j, other in enumerate(student) if other == own]
        if len(twins) == len(same):
            twin = twins[same.index(i)]
            bits.append(right[twin] if student_unknown[i] else known[twin])
        else:
            bits.append(all(is_right(character) for character in own))
    return bits
